# Multi-scale training on COCO, from DETR and Sparse R-CNN as SwinV1 took it over
# (github.com/SwinTransformer/Swin-Transformer-Object-Detection): a flip, then either the short side one of 480, 512, ...,
# 800 and the long side at most 1333, or a random crop of the image at 400, 500 or 600 before that.
resize = dict(type='RandomChoiceResize', scales=[(1333, s) for s in range(480, 801, 32)], keep_ratio=True)
multi_scale = [
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomChoice',
        transforms=[
            [resize],
            [
                dict(type='RandomChoiceResize', scales=[(1333, s) for s in (400, 500, 600)], keep_ratio=True),
                dict(type='RandomCrop', crop_type='absolute_range', crop_size=(384, 600), allow_negative_crop=True),
                resize,
            ],
        ],
    ),
    dict(type='PackDetInputs'),
]
# Multi-scale testing.
tta_steps = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=(1600, s), keep_ratio=True) for s in (640, 800, 960)],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='LoadAnnotations', with_bbox=True)],
            [
                dict(
                    type='PackDetInputs',
                    meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction'),
                )
            ],
        ],
    ),
]
