# SwinV2-B + HTC++, the paper's recipe, from the public ImageNet-22K weights.
_base_ = ['../swinv2_htc_coco.py', '../_base_/checkpoints.py']
model = dict(
    backbone=dict(
        arch='base', init_cfg=dict(type='mmvitscale.Pretrained', checkpoint={{_base_.swinv2_base_22k}})),
    neck=dict(in_channels=[128, 256, 512, 1024]))
