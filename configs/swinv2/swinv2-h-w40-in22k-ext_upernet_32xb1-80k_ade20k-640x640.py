# SwinV2-H + UPerNet at 640 x 640 with window 40. No source has it: the recipe is the giant's, at the width of the huge
# model.
_base_ = './swinv2-g-w40-in22k-ext_upernet_32xb1-80k_ade20k-640x640.py'
model = dict(
    backbone=dict(_base_.swinv2.h_in22k_ext, window_size=40, drop_path_rate=0.4),
    decode_head=dict(in_channels=_base_.swinv2_channels.h),
    auxiliary_head=dict(in_channels=1408),
)
