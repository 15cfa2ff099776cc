# Some minutes on a CPU. No number here is a paper's.
iters = 1000
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='mmvitscale.LayerDecayOptimWrapperConstructor',
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=2e-5, by_epoch=False, begin=50, end=iters),
]
auto_scale_lr = dict(base_batch_size=16)
train_cfg = dict(by_epoch=False, max_iters=iters, val_interval=iters)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
