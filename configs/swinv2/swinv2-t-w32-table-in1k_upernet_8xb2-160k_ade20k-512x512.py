# A row of SwinV2's Table 1: a bias table, window 32 (44.5 mIoU in the paper, which tells
# the crop of window 16 only).
_base_ = '../swinv2_upernet_ade20k.py'
model = dict(backbone=dict(_base_.swinv2.t_table_in1k, window_size=32))
