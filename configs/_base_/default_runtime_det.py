_base_ = ['mmdet::_base_/default_runtime.py', './runtime.py']
sync_bn = 'torch'  # takes effect on several GPUs; one process keeps BatchNorm
default_hooks = dict(checkpoint=dict(save_best='auto'))
