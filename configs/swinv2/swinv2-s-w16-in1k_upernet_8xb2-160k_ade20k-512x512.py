# SwinV2-S + UPerNet. The paper gives T only: its recipe is taken over.
_base_ = '../swinv2_upernet_ade20k.py'
model = dict(backbone=_base_.swinv2.s_in1k)
