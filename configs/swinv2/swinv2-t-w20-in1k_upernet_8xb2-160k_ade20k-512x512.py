# A row of SwinV2's Table 1: log-spaced CPB, window 20 (47.7 mIoU in the paper, which gives
# the crop of window 16 only).
_base_ = './swinv2-t-w16-in1k_upernet_8xb2-160k_ade20k-512x512.py'
model = dict(backbone=dict(window_size=20))
