# SwinV2-T + Cascade Mask R-CNN with mmdetection's own box heads: two fully connected layers, class-agnostic, smooth L1.
_base_ = [
    'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py',
    '../_base_/swinv2.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/coco_3x.py',
    '../_base_/default_runtime_det.py',
]
model = dict(backbone=dict(_delete_=True, **_base_.swinv2_detector), neck=dict(in_channels=_base_.swinv2_channels.t))
