# SwinV2-S + Cascade Mask R-CNN.
_base_ = '../swinv2_cascade_mask_rcnn_coco.py'
model = dict(backbone=_base_.swinv2.s_in1k)
