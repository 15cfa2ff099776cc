# SwinV2-S + Mask R-CNN.
_base_ = '../swinv2_mask_rcnn_coco.py'
model = dict(backbone=_base_.swinv2.s_in1k)
