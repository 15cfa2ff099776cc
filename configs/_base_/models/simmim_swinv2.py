# SimMIM (arXiv 2111.09886) on SwinV2-B, 192 x 192, window 12, as the official SwinV2 code has it: L1 on masked pixels,
# targets normalised over 47 x 47 pixels.
_base_ = '../swinv2.py'
model = dict(
    type='SimMIM',
    data_preprocessor=dict(
        type='SelfSupDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
    ),
    backbone=dict(
        type='mmvitscale.MaskedSwinTransformerV2', arch='base', window_size=[12, 12, 12, 6], out_indices=[3], drop_path_rate=0.1
    ),
    neck=dict(type='SimMIMLinearDecoder', in_channels=1024, encoder_stride=32),
    head=dict(
        type='SimMIMHead',
        patch_size=4,
        loss=dict(
            type='mmvitscale.LocallyNormalizedTarget',
            size=47,
            loss=dict(type='PixelReconstructionLoss', criterion='L1', channel=3),
        ),
    ),
)
