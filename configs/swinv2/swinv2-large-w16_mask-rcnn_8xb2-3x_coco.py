# SwinV2-L + Mask R-CNN, from the public ImageNet-22K weights; drop path 0.3 as is SwinV1's practice for this size.
_base_ = ['../swinv2_mask_rcnn_coco.py', '../_base_/checkpoints.py']
model = dict(
    backbone=dict(
        arch='large',
        pretrained_window_sizes=[12, 12, 12, 6],
        drop_path_rate=0.3,
        with_cp=True,
        init_cfg=dict(type='mmvitscale.Pretrained', checkpoint={{_base_.swinv2_large_22k}})),
    neck=dict(in_channels=[192, 384, 768, 1536]))
