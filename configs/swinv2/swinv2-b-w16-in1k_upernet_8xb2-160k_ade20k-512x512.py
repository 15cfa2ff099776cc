# SwinV2-B + UPerNet, ImageNet-1K. The paper gives T only: its recipe is taken over.
_base_ = '../swinv2_upernet_ade20k.py'
model = dict(
    backbone=_base_.swinv2.b_in1k, decode_head=dict(in_channels=_base_.swinv2_channels.b), auxiliary_head=dict(in_channels=512)
)
