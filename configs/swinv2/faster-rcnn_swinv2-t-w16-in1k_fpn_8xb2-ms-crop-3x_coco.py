# SwinV2-T + Faster R-CNN: boxes only, no masks needed; the recipe is that of the paper's Cascade Mask R-CNN.
_base_ = [
    '../_base_/models/faster_rcnn_swinv2.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/coco_3x.py',
    '../_base_/default_runtime_det.py',
]
