# SwinV2-L + UPerNet at 640 x 640 with window 40, the paper's recipe (55.9 mIoU), from the public ImageNet-22K weights.
_base_ = './swinv2-base-w40_upernet_8xb8-40k_ade20k-640x640.py'
# window 12 (stage 4: 6) at 192 x 192, listed in the README of github.com/microsoft/Swin-Transformer
checkpoint = 'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/swinv2_large_patch4_window12_192_22k.pth'
model = dict(
    backbone=dict(arch='large', init_cfg=dict(checkpoint=checkpoint)),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
    auxiliary_head=dict(in_channels=768))
