# A row of SwinV2's Table 1: linear-spaced CPB, window 32 (51.7 box AP in the paper).
_base_ = '../swinv2_cascade_mask_rcnn_coco.py'
model = dict(backbone=dict(_base_.swinv2.t_linear_in1k, window_size=32))
