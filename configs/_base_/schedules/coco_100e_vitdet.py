# ViTDet's schedule (mmdetection, projects/ViTDet): AdamW 1e-4, weight decay 0.1, 184375 iterations of 64 images (100
# epochs), steps at 163889 and 177546, 250 iterations of warm-up, mixed precision; here 16 GPUs x 4. The layer decay is
# that of _base_/deepvit.py: ViTDet's 0.7 is for 12 blocks of masked pretraining.
_base_ = '../default_runtime_det.py'
iters = 184375
optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
    constructor='mmvitscale.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.96),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=250),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=iters, milestones=[163889, 177546], gamma=0.1),
]
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=iters, val_interval=5000, dynamic_intervals=[(iters // 5000 * 5000 + 1, iters)]
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(logger=dict(log_metric_by_epoch=False), checkpoint=dict(by_epoch=False, interval=5000, max_keep_ckpts=3))
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(enable=False, base_batch_size=64)
