# SwinV2-G with HTC++ on COCO (SwinV2, appendix): AdamW 6e-4, weight decay 0.05, 45k iterations of 96 images, here 96 GPUs
# x 1. The paper states neither steps nor the backbone's rate here: the steps are those of 3x (3/4 and 11/12 of the
# length), the backbone takes a tenth, as B's and L's does.
_base_ = '../default_runtime_det.py'
iters = 45000
optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='mmvitscale.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=iters, milestones=[33750, 41250], gamma=0.1),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=5000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(logger=dict(log_metric_by_epoch=False), checkpoint=dict(by_epoch=False, interval=5000))
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(enable=False, base_batch_size=96)
