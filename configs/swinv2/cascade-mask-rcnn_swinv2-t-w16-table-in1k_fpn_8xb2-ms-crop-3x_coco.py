# A row of SwinV2's Table 1: a bias table, window 16 (50.8 box AP in the paper).
_base_ = '../swinv2_cascade_mask_rcnn_coco.py'
model = dict(backbone=_base_.swinv2.t_table_in1k)
