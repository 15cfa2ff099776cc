# DeepViT-S (16 blocks, convolutional stem) + UPerNet; the rest as for 32 blocks.
_base_ = '../deepvit_upernet_ade20k.py'
model = dict(
    backbone=dict(arch='deepvit-s', out_indices=[3, 7, 11, 15]), neck=dict(in_channels=[396] * 4))
