# Semantic FPN's practice on vision transformers (Twins, arXiv 2104.13840, in mmsegmentation): AdamW 1e-4, weight decay
# 1e-4, polynomial decay of power 0.9 to zero at 80k, no warm-up, batch 32 in all, here 8 GPUs x 4.
_base_ = './ade20k_160k.py'
iters = 80000
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=1e-4), paramwise_cfg=dict(layer_decay_rate=1.0))
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, begin=0, end=iters)]
train_cfg = dict(max_iters=iters, val_interval=8000)
default_hooks = dict(checkpoint=dict(interval=8000))
auto_scale_lr = dict(base_batch_size=32)
