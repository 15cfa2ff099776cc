# SwinV2-B + UPerNet, from the public ImageNet-1K weights. The paper gives T only: its recipe is taken over.
_base_ = './swinv2-tiny-w16_upernet_8xb2-160k_ade20k-512x512.py'
# window 8 at 256 x 256, listed in the README of github.com/microsoft/Swin-Transformer
checkpoint = 'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/swinv2_base_patch4_window8_256.pth'
model = dict(
    backbone=dict(arch='base', init_cfg=dict(checkpoint=checkpoint)),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512))
