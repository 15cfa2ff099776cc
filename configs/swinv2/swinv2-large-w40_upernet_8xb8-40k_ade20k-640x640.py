# SwinV2-L + UPerNet at 640 x 640 with window 40, the paper's recipe (55.9 mIoU), from the public ImageNet-22K weights.
_base_ = './swinv2-base-w40_upernet_8xb8-40k_ade20k-640x640.py'
model = dict(
    backbone=dict(arch='large', init_cfg=dict(checkpoint={{_base_.swinv2_large_22k}})),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
    auxiliary_head=dict(in_channels=768))
