_base_ = 'mmdet::_base_/default_runtime.py'
runner_type = 'mmvitscale.Runner'  # for mmdetection's own tools, too: takes any layout, runs no code of a file
sync_bn = 'torch'  # takes effect on several GPUs; one process keeps BatchNorm
custom_hooks = [dict(type='mmvitscale.LogCPBTransferHook')]
