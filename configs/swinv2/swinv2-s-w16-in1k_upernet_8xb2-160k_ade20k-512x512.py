# SwinV2-S + UPerNet. The paper gives T only: its recipe is taken over.
_base_ = './swinv2-t-w16-in1k_upernet_8xb2-160k_ade20k-512x512.py'
model = dict(backbone=_base_.swinv2.s_in1k)
