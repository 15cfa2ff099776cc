# SwinV2-B and -L on ADE20K (SwinV2, appendix): AdamW 6e-5, weight decay 0.05, 375 iterations of warm-up, then linear to
# zero at 40k; batch 64 in all, 8 GPUs x 8.
_base_ = './ade20k_160k.py'
iters = 40000
optim_wrapper = dict(optimizer=dict(lr=6e-5), paramwise_cfg=dict(layer_decay_rate=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=375),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=375, end=iters),
]
train_cfg = dict(max_iters=iters, val_interval=4000)
default_hooks = dict(checkpoint=dict(interval=4000))
auto_scale_lr = dict(base_batch_size=64)
