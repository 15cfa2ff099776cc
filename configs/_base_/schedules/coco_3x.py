# SwinV2-T on COCO (SwinV2, appendix): AdamW 1e-4, weight decay 0.05, 36 epochs, batch 16 in all, here 8 GPUs x 2. The
# rest is SwinV1's (github.com/SwinTransformer/Swin-Transformer-Object-Detection), which the paper follows: steps at 27 and
# 33, 500 iterations of warm-up (mmdetection's own Swin configs take 1000), mixed precision, no clipping.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='mmvitscale.LayerDecayOptimWrapperConstructor',
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=36, milestones=[27, 33], gamma=0.1),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=36, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(enable=False, base_batch_size=16)
