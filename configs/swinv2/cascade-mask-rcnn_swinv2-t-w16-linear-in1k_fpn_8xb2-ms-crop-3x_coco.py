# A row of SwinV2's Table 1: linear-spaced CPB, window 16 (50.9 box AP in the paper).
_base_ = '../swinv2_cascade_mask_rcnn_coco.py'
model = dict(backbone=_base_.swinv2.t_linear_in1k)
