# SimMIM of SwinV2-B on ImageNet-1K, 192 x 192, window 12 (stage 4: 6).
_base_ = [
    '../_base_/models/simmim_swinv2.py',
    '../_base_/datasets/imagenet_simmim.py',
    '../_base_/default_runtime_pretrain.py',
    '../_base_/schedules/simmim_800e.py',
]
