# The public SwinV2 weights, listed in the README of github.com/microsoft/Swin-Transformer.
# ImageNet-1K at 256 x 256, window 8:
swinv2_tiny_w8 = 'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/swinv2_tiny_patch4_window8_256.pth'
swinv2_small_w8 = 'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/swinv2_small_patch4_window8_256.pth'
swinv2_base_w8 = 'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/swinv2_base_patch4_window8_256.pth'
# ImageNet-22K at 192 x 192, window 12 (stage 4: 6):
swinv2_base_22k = \
    'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/swinv2_base_patch4_window12_192_22k.pth'
swinv2_large_22k = \
    'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/swinv2_large_patch4_window12_192_22k.pth'
