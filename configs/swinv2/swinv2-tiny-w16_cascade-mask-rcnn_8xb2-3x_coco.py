# SwinV2-T + Cascade Mask R-CNN, the paper's ablation, from the public ImageNet-1K weights.
_base_ = ['../swinv2_cascade_mask_rcnn_coco.py', '../_base_/checkpoints.py']
model = dict(backbone=dict(init_cfg=dict(type='mmvitscale.Pretrained', checkpoint={{_base_.swinv2_tiny_w8}})))
