# SwinV2-L + UPerNet at 640 x 640 with window 40, the paper's recipe (SwinV2, Table 4: 55.9 mIoU with multi-scale testing).
_base_ = './swinv2-b-w40-in22k_upernet_8xb8-40k_ade20k-640x640.py'
model = dict(
    backbone=_base_.swinv2.l_in22k, decode_head=dict(in_channels=_base_.swinv2_channels.l), auxiliary_head=dict(in_channels=768)
)
