# SwinV2-S + UPerNet, from the public ImageNet-1K weights. The paper gives T only: its recipe is taken over.
_base_ = ['../swinv2_upernet_ade20k.py', '../_base_/checkpoints.py']
model = dict(
    backbone=dict(
        arch='small', init_cfg=dict(type='mmvitscale.Pretrained', checkpoint={{_base_.swinv2_small_w8}})))
