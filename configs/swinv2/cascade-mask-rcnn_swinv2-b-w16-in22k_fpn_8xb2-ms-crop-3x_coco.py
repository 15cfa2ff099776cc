# SwinV2-B + Cascade Mask R-CNN; drop path 0.3 as is SwinV1's practice for this size.
_base_ = './cascade-mask-rcnn_swinv2-t-w16-in1k_fpn_8xb2-ms-crop-3x_coco.py'
model = dict(backbone=dict(drop_path_rate=0.3, **_base_.swinv2.b_in22k), neck=dict(in_channels=_base_.swinv2_channels.b))
