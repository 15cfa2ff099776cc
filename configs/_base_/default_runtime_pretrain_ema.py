_base_ = './default_runtime_pretrain.py'
# DeepViT's averaged weights, decay 0.99996; they are what is tested.
custom_hooks = [
    dict(type='mmvitscale.LogCPBTransferHook'),
    dict(type='EMAHook', momentum=4e-5, update_buffers=True),
]
