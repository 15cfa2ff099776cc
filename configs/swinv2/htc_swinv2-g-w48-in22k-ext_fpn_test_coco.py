# For testing what HTC++ with SwinV2-G has trained: with window 48 (SwinV2, Table 3: with multi-scale testing, --tta, 62.5
# box and 53.7 mask AP on minival, on test-dev 63.1 and 54.4).
_base_ = './htc_swinv2-g-w32-in22k-ext_fpn_96xb1-lsj1536-45k_coco.py'
model = dict(backbone=dict(window_size=48))
