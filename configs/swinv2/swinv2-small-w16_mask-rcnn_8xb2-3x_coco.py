# SwinV2-S + Mask R-CNN, from the public ImageNet-1K weights.
_base_ = ['../swinv2_mask_rcnn_coco.py', '../_base_/checkpoints.py']
model = dict(
    backbone=dict(
        arch='small', init_cfg=dict(type='mmvitscale.Pretrained', checkpoint={{_base_.swinv2_small_w8}})))
