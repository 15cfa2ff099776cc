# SwinV2-L + HTC++, the paper's recipe (60.8 box AP on test-dev), from the public ImageNet-22K weights.
_base_ = ['../swinv2_htc_coco.py', '../_base_/checkpoints.py']
model = dict(
    backbone=dict(init_cfg=dict(type='mmvitscale.Pretrained', checkpoint={{_base_.swinv2_large_22k}})))
