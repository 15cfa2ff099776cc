# SwinV2-B + UPerNet, ImageNet-1K. The paper gives T only: its recipe is taken over.
_base_ = './swinv2-t-w16-in1k_upernet_8xb2-160k_ade20k-512x512.py'
model = dict(
    backbone=_base_.swinv2.b_in1k, decode_head=dict(in_channels=_base_.swinv2_channels.b), auxiliary_head=dict(in_channels=512)
)
