# SwinV2 on ImageNet-1K (SwinV2, appendix, and official code): AdamW 1e-3, weight decay 0.05, 300 epochs of batches of 1024,
# warm-up of 20 epochs from 1e-6, cosine to 1e-5, gradients clipped at 5.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    loss_scale='dynamic',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    constructor='mmvitscale.LayerDecayOptimWrapperConstructor',
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=20, end=300, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=10)
val_cfg = {}
test_cfg = {}
auto_scale_lr = dict(enable=False, base_batch_size=1024)
