# Semantic FPN on SwinV2-T, 512 x 512.
_base_ = './upernet_swinv2.py'
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    neck=dict(type='FPN', in_channels=_base_.swinv2_channels.t, out_channels=256, num_outs=4),
    decode_head=dict(
        _delete_=True,
        type='mmvitscale.FPNHead',
        in_channels=[256, 256, 256, 256],
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=128,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=None,
)
