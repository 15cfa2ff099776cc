# SwinV2-B + Mask R-CNN, from the public ImageNet-22K weights; drop path 0.3 as is SwinV1's practice for this size.
_base_ = ['../swinv2_mask_rcnn_coco.py', '../_base_/checkpoints.py']
model = dict(
    backbone=dict(
        arch='base',
        pretrained_window_sizes=[12, 12, 12, 6],
        drop_path_rate=0.3,
        init_cfg=dict(type='mmvitscale.Pretrained', checkpoint={{_base_.swinv2_base_22k}})),
    neck=dict(in_channels=[128, 256, 512, 1024]))
