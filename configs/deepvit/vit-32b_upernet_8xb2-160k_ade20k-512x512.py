# The plain ViT of 32 blocks that DeepViT is compared with, all else equal.
_base_ = '../deepvit_upernet_ade20k.py'
model = dict(backbone=dict(arch='vit-32b'))
