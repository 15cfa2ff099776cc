# mmdet's Faster R-CNN on SwinV2-T.
_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', '../swinv2.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvitscale.SwinTransformerV2',
        window_size=16,
        drop_path_rate=0.2,
        **_base_.swinv2.t_in1k),
    neck=dict(in_channels=_base_.swinv2_channels.t))
