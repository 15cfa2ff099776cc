# SwinV2-T + UPerNet, the paper's recipe (Table 1: 47.0 mIoU), from the public ImageNet-1K weights.
_base_ = '../swinv2_upernet_ade20k.py'
# window 8 at 256 x 256, listed in the README of github.com/microsoft/Swin-Transformer
checkpoint = 'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/swinv2_tiny_patch4_window8_256.pth'
model = dict(backbone=dict(init_cfg=dict(type='mmvitscale.Pretrained', checkpoint=checkpoint)))
