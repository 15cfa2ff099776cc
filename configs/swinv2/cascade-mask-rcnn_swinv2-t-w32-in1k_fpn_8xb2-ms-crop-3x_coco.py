# A row of SwinV2's Table 1: log-spaced CPB, window 32 (51.8 box AP in the paper).
_base_ = './cascade-mask-rcnn_swinv2-t-w16-in1k_fpn_8xb2-ms-crop-3x_coco.py'
model = dict(backbone=dict(window_size=32))
