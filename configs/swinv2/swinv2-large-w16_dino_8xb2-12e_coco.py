# SwinV2-L + DINO with 4 scales, from the public ImageNet-22K weights.
_base_ = ['../swinv2_dino_coco.py', '../_base_/checkpoints.py']
model = dict(
    backbone=dict(
        arch='large',
        pretrained_window_sizes=[12, 12, 12, 6],
        with_cp=True,
        init_cfg=dict(type='mmvitscale.Pretrained', checkpoint={{_base_.swinv2_large_22k}})),
    neck=dict(in_channels=[384, 768, 1536]))
