# SwinV2-G on ADE20K (SwinV2, appendix): AdamW 4e-5, weight decay 0.05, 750 iterations of warm-up, then linear to zero at
# 80k; batch 32 in all, here 32 GPUs x 1.
_base_ = './ade20k_160k.py'
iters = 80000
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=750),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=750, end=iters),
]
train_cfg = dict(max_iters=iters, val_interval=8000)
default_hooks = dict(checkpoint=dict(interval=8000))
auto_scale_lr = dict(base_batch_size=32)
