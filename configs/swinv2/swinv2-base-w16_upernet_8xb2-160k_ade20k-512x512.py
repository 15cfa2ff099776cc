# SwinV2-B + UPerNet, from the public ImageNet-1K weights. The paper gives T only: its recipe is taken over.
_base_ = ['../swinv2_upernet_ade20k.py', '../_base_/checkpoints.py']
model = dict(
    backbone=dict(
        arch='base', init_cfg=dict(type='mmvitscale.Pretrained', checkpoint={{_base_.swinv2_base_w8}})),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512))
