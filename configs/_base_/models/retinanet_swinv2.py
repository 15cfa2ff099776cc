# mmdet's RetinaNet on SwinV2-T. It reads strides 8, 16 and 32, so the backbone returns no more.
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', '../swinv2.py']
model = dict(
    backbone=dict(_delete_=True, out_indices=[1, 2, 3], **_base_.swinv2_detector),
    neck=dict(in_channels=_base_.swinv2_channels.t[1:], start_level=0),
)
