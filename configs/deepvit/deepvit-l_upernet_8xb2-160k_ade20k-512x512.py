# DeepViT-L (32 blocks, convolutional stem) + UPerNet; the rest as for 32 blocks.
_base_ = '../deepvit_upernet_ade20k.py'
model = dict(backbone=dict(arch='deepvit-l'), neck=dict(in_channels=[420] * 4))
