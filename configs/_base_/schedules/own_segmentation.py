# Fine-tuning on some hundreds to some thousands of images of one's own, from public weights: SwinV1-T's rate on ADE20K, a
# steeper layer decay, since little data teaches the lower layers little, and 8000 iterations of 16 crops (here 1 GPU x 16).
_base_ = './ade20k_160k.py'
iters = 8000
optim_wrapper = dict(optimizer=dict(lr=6e-5), paramwise_cfg=dict(layer_decay_rate=0.9), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=200),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=200, end=iters),
]
train_cfg = dict(max_iters=iters, val_interval=800)
default_hooks = dict(checkpoint=dict(interval=800))
