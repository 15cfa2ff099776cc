# DeepViT-16b + UPerNet; the rest as for 32 blocks.
_base_ = '../deepvit_upernet_ade20k.py'
model = dict(backbone=dict(arch='deepvit-16b', out_indices=[3, 7, 11, 15]))
