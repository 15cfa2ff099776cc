# UPerNet on Cityscapes: SwinV2-T's optimisation on ADE20K with mmsegmentation's length and batch for Cityscapes, 80k
# iterations of 8 crops, here 4 GPUs x 2. Neither SwinV2 nor SwinV1 has Cityscapes.
_base_ = './ade20k_160k.py'
iters = 80000
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=1500, end=iters),
]
train_cfg = dict(max_iters=iters, val_interval=8000)
default_hooks = dict(checkpoint=dict(interval=8000))
auto_scale_lr = dict(base_batch_size=8)
