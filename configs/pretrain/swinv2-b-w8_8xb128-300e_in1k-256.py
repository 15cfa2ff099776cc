# SwinV2-B on ImageNet-1K, 256 x 256, window 8 (README of the official code: 84.2 top-1).
_base_ = [
    '../_base_/models/classifier_swinv2.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/default_runtime_pretrain.py',
    '../_base_/schedules/imagenet_300e.py',
]
model = dict(backbone=dict(arch='base', window_size=8, drop_path_rate=0.5), head=dict(in_channels=1024))
