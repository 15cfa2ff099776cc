# The same on Cityscapes: 90k iterations.
_base_ = './mask2former_160k.py'
iters = 90000
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, begin=0, end=iters)]
train_cfg = dict(max_iters=iters, val_interval=5000)
default_hooks = dict(checkpoint=dict(interval=5000))
