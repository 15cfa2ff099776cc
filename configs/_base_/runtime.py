# What a config of ours adds to another package's runtime.
runner_type = 'mmvitscale.Runner'  # for OpenMMLab's own tools, too: takes any layout, runs no code of a file
custom_hooks = [dict(type='mmvitscale.LogCPBTransferHook')]
