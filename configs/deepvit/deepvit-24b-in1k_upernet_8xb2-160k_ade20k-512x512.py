# UPerNet on DeepViT-24b; the rest as for 32 blocks.
_base_ = './deepvit-32b-in1k_upernet_8xb2-160k_ade20k-512x512.py'
size = _base_.deepvit['deepvit-24b']
model = dict(backbone=size.backbone, neck=dict(in_channels=[size.channels] * 4))
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=size.layer_decay))
