# SwinV2-L on ImageNet-22K, 192 x 192, window 12 (stage 4: 6).
_base_ = [
    '../_base_/models/classifier_swinv2.py',
    '../_base_/datasets/imagenet_22k.py',
    '../_base_/default_runtime_pretrain.py',
    '../_base_/schedules/imagenet22k_90e.py',
]
model = dict(
    data_preprocessor=dict(num_classes=21841),
    backbone=dict(arch='large', window_size=[12, 12, 12, 6], drop_path_rate=0.2),
    head=dict(in_channels=1536, num_classes=21841),
)
