# A row of SwinV2's Table 1: a bias table, window 32 (50.9 box AP in the paper).
_base_ = '../swinv2_cascade_mask_rcnn_coco.py'
model = dict(backbone=dict(_base_.swinv2.t_table_in1k, window_size=32))
