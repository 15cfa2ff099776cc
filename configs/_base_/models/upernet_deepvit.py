# UPerNet on DeepViT-32b, 512 x 512: four blocks' tokens through a simple pyramid.
_base_ = ['./upernet_swinv2.py', '../deepvit.py']
size = _base_.deepvit['deepvit-32b']
model = dict(
    data_preprocessor=_base_.deepvit_preprocessor,
    backbone=dict(_delete_=True, type='mmvitscale.DeepViT', img_size=512, drop_path_rate=0.2, **size.backbone),
    neck=dict(type='mmvitscale.SimplePyramid', in_channels=[size.channels] * 4, out_channels=384),
    decode_head=dict(in_channels=[384] * 4),
    auxiliary_head=dict(in_channels=384),
    # Whole images (mode='whole') are a little worse than crops of the trained size: docs/deepvit.md.
    test_cfg=dict(_delete_=True, mode='slide', crop_size=(512, 512), stride=(341, 341)),
)
