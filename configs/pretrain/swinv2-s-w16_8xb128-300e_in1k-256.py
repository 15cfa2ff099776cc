# SwinV2-S on ImageNet-1K, 256 x 256, window 16 (README of the official code: 84.1 top-1).
_base_ = [
    '../_base_/models/classifier_swinv2.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/default_runtime_pretrain.py',
    '../_base_/schedules/imagenet_300e.py',
]
model = dict(backbone=dict(arch='small', window_size=[16, 16, 16, 8], drop_path_rate=0.3), head=dict(in_channels=768))
