# HTC++ on COCO (SwinV2, appendix, B and L): AdamW 4e-4 with a tenth of it for the backbone, weight decay 0.05, 3x, batch
# 64 in all, here 64 GPUs x 1. Steps and warm-up as in the other 3x runs.
_base_ = './coco_3x.py'
optim_wrapper = dict(optimizer=dict(lr=4e-4), paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))))
auto_scale_lr = dict(base_batch_size=64)
