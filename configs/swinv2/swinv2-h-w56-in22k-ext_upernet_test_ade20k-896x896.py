# For testing what swinv2-h-w40-in22k-ext_upernet_32xb1-80k_ade20k-640x640.py has trained: at 896 with window 56.
_base_ = './swinv2-g-w56-in22k-ext_upernet_test_ade20k-896x896.py'
model = dict(
    backbone=_base_.swinv2.h_in22k_ext,
    decode_head=dict(in_channels=_base_.swinv2_channels.h),
    auxiliary_head=dict(in_channels=1408),
)
