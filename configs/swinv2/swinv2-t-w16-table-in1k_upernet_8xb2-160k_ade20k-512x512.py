# A row of SwinV2's Table 1: a bias table, window 16 (45.5 mIoU in the paper, which does not tell the crop at windows but 16).
_base_ = '../swinv2_upernet_ade20k.py'
model = dict(backbone=_base_.swinv2.t_table_in1k)
