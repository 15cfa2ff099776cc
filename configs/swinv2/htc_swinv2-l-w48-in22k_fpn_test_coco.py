# For testing what HTC++ with SwinV2-L has trained: with window 48 (SwinV2, Table 3: 58.9 box and 51.2 mask AP on minival,
# with multi-scale testing, --tta, 60.2 and 52.1).
_base_ = './htc_swinv2-l-w32-in22k_fpn_64xb1-lsj1536-3x_coco.py'
model = dict(backbone=dict(window_size=48))
