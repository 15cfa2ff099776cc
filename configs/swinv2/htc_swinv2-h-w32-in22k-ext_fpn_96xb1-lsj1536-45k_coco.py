# SwinV2-H + HTC++ at 1536 x 1536 with window 32. No source has it: the recipe is the giant's, at the width of the huge
# model. Tested with window 48: htc_swinv2-h-w48-in22k-ext_fpn_test_coco.py
_base_ = './htc_swinv2-g-w32-in22k-ext_fpn_96xb1-lsj1536-45k_coco.py'
model = dict(
    backbone=_base_.swinv2.h_in22k_ext,
    neck=[
        dict(_base_.model.neck[0], in_channels=2816, num_heads=64),
        dict(_base_.model.neck[1], in_channels=_base_.swinv2_channels.h),
    ],
)
