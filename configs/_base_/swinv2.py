# SwinV2's sizes with the weights that are used with them. Public: those listed in the README of
# github.com/microsoft/Swin-Transformer, ImageNet-1K at 256 x 256 with window 8 and ImageNet-22K at 192 x 192 with window
# 12 (stage 4: 6). The others were never published: their files are expected in checkpoints/. What a model learns from
# scratch: --cfg-options model.backbone.init_cfg=None
release = 'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/swinv2_'
windows_22k = [12, 12, 12, 6]
swinv2 = dict(
    t_in1k=dict(
        arch='tiny',
        pretrained_window_sizes=8,
        init_cfg=dict(type='Pretrained', checkpoint=release + 'tiny_patch4_window8_256.pth'),
    ),
    s_in1k=dict(
        arch='small',
        pretrained_window_sizes=8,
        init_cfg=dict(type='Pretrained', checkpoint=release + 'small_patch4_window8_256.pth'),
    ),
    b_in1k=dict(
        arch='base',
        pretrained_window_sizes=8,
        init_cfg=dict(type='Pretrained', checkpoint=release + 'base_patch4_window8_256.pth'),
    ),
    b_in22k=dict(
        arch='base',
        pretrained_window_sizes=windows_22k,
        init_cfg=dict(type='Pretrained', checkpoint=release + 'base_patch4_window12_192_22k.pth'),
    ),
    l_in22k=dict(
        arch='large',
        pretrained_window_sizes=windows_22k,
        with_cp=True,
        init_cfg=dict(type='Pretrained', checkpoint=release + 'large_patch4_window12_192_22k.pth'),
    ),
    # 70 million images, 192 x 192 (SwinV2, appendix).
    g_in22k_ext=dict(
        arch='giant',
        pretrained_window_sizes=windows_22k,
        with_cp=True,
        attention=['sequential', 'sequential', 'auto', 'auto'],
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/swinv2_giant_window12_192_22k_ext.pth'),
    ),
)
# The backbone of most detectors' recipes: T with window 16, and SwinV1's drop path for it.
swinv2_detector = dict(type='mmvitscale.SwinTransformerV2', window_size=16, drop_path_rate=0.2, **swinv2['t_in1k'])
# Channels of the four stages.
swinv2_channels = dict(
    t=[96, 192, 384, 768],
    s=[96, 192, 384, 768],
    b=[128, 256, 512, 1024],
    l=[192, 384, 768, 1536],
    g=[512, 1024, 2048, 4096],
)
del release, windows_22k
