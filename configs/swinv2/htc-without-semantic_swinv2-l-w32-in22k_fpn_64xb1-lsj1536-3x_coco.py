# SwinV2-L + HTC++ without the semantic branch, and so without stuffthingmaps.
_base_ = [
    '../_base_/models/htc_swinv2.py',
    '../_base_/datasets/coco_instance_htc.py',
    '../_base_/schedules/coco_3x_htc.py',
    '../_base_/default_runtime_det.py',
]
