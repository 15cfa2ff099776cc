# A row of SwinV2's Table 1: log-spaced CPB, window 32 (51.8 box AP in the paper).
_base_ = '../swinv2_cascade_mask_rcnn_coco.py'
model = dict(backbone=dict(window_size=32))
