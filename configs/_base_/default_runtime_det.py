_base_ = 'mmdet::_base_/default_runtime.py'
runner_type = 'mmvitscale.Runner'  # for mmdetection's own tools, too: reads no code from checkpoints, takes any layout
custom_hooks = [dict(type='mmvitscale.LogCPBTransferHook')]
