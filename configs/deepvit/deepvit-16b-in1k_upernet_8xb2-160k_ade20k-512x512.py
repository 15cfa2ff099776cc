# UPerNet on DeepViT-16b; the rest as for 32 blocks.
_base_ = '../deepvit_upernet_ade20k.py'
size = _base_.deepvit['deepvit-16b']
model = dict(backbone=size.backbone, neck=dict(in_channels=[size.channels] * 4))
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=size.layer_decay))
