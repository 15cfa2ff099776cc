# SwinV2-T + Cascade Mask R-CNN on COCO, window 16, pretrained at window 8: the paper's ablation (SwinV2, Table 1: 51.1
# box AP, with window 32: 51.8).
_base_ = [
    '../_base_/models/cascade_mask_rcnn_swinv2.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/coco_3x.py',
    '../_base_/default_runtime_det.py',
]
