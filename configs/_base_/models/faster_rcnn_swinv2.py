# mmdet's Faster R-CNN on SwinV2-T.
_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', '../swinv2.py']
model = dict(backbone=dict(_delete_=True, **_base_.swinv2_detector), neck=dict(in_channels=_base_.swinv2_channels.t))
