# SwinV2-T + Mask R-CNN on COCO, window 16, pretrained at window 8, 3x schedule (36 epochs); the recipe is that of the paper's
# Cascade Mask R-CNN.
_base_ = [
    '../_base_/models/mask_rcnn_swinv2.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/coco_3x.py',
    '../_base_/default_runtime_det.py',
]
