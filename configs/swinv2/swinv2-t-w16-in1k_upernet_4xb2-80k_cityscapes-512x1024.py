# SwinV2-T + UPerNet on Cityscapes.
_base_ = [
    '../_base_/models/upernet_swinv2.py',
    '../_base_/datasets/cityscapes.py',
    '../_base_/schedules/cityscapes_80k.py',
    '../_base_/default_runtime_seg.py',
]
model = dict(data_preprocessor=dict(size=(512, 1024)), decode_head=dict(num_classes=19), auxiliary_head=dict(num_classes=19))
