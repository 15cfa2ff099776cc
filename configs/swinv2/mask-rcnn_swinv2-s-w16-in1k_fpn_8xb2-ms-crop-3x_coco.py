# SwinV2-S + Mask R-CNN.
_base_ = './mask-rcnn_swinv2-t-w16-in1k_fpn_8xb2-ms-crop-3x_coco.py'
model = dict(backbone=_base_.swinv2.s_in1k)
