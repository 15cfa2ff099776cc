# DeepViT-24b + UPerNet; the rest as for 32 blocks.
_base_ = '../deepvit_upernet_ade20k.py'
model = dict(backbone=dict(arch='deepvit-24b', out_indices=[5, 11, 17, 23]))
