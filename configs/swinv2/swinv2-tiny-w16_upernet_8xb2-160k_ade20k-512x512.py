# SwinV2-T + UPerNet, the paper's recipe (Table 1: 47.0 mIoU), from the public ImageNet-1K weights.
_base_ = ['../swinv2_upernet_ade20k.py', '../_base_/checkpoints.py']
model = dict(backbone=dict(init_cfg=dict(type='mmvitscale.Pretrained', checkpoint={{_base_.swinv2_tiny_w8}})))
