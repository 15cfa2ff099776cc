# SwinV2-T + Mask R-CNN, from the public ImageNet-1K weights.
_base_ = ['../swinv2_mask_rcnn_coco.py', '../_base_/checkpoints.py']
model = dict(backbone=dict(init_cfg=dict(type='mmvitscale.Pretrained', checkpoint={{_base_.swinv2_tiny_w8}})))
