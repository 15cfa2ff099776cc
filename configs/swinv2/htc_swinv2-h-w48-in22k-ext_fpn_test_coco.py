# For testing what HTC++ with SwinV2-H has trained: with window 48.
_base_ = './htc_swinv2-h-w32-in22k-ext_fpn_96xb1-lsj1536-45k_coco.py'
model = dict(backbone=dict(window_size=48))
