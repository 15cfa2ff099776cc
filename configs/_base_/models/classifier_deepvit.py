# ImageNet classifier on DeepViT, 224 x 224: from scratch. Mixup 0.8, CutMix 1 and label smoothing 0.1 of the official
# recipe; its colour jitter of 0.4 does nothing beside RandAugment (timm). The class is read from the class token.
_base_ = './classifier_swinv2.py'
model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(
        _delete_=True, type='mmvitscale.DeepViT', arch='deepvit-16b', img_size=224, out_type='cls_token', drop_path_rate=0.2
    ),
    neck=None,
    head=dict(in_channels=384),
)
