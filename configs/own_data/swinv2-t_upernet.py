# SwinV2-T + UPerNet on images and label images of your own, from public weights, with layer-wise learning rates.
_base_ = [
    '../_base_/models/upernet_swinv2.py',
    '../_base_/datasets/own_segmentation.py',
    '../_base_/schedules/own_segmentation.py',
    '../_base_/default_runtime_seg.py',
]
model = dict(backbone=dict(drop_path_rate=0.2), decode_head=dict(num_classes=2), auxiliary_head=dict(num_classes=2))
train_dataloader = dict(batch_size=16)
