# SwinV2-L + HTC++ without the semantic branch, and so without stuffthingmaps.
_base_ = [
    '../_base_/models/htc_swinv2.py', '../_base_/datasets/coco_instance_htc.py', '../_base_/schedules/coco_3x_htc.py',
    '../_base_/default_runtime_det.py'
]
model = dict(
    backbone=dict(window_size=32, attention=['sequential', 'sequential', 'auto', 'auto'], **_base_.swinv2.l_in22k),
    neck=[
        dict(_base_.model.neck[0], in_channels=1536, num_heads=48, with_cp=True),
        dict(_base_.model.neck[1], in_channels=_base_.swinv2_channels.l),
    ])
