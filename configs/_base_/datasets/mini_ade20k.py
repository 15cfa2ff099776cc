# The synthetic mini dataset (python tools/make_mini_dataset.py): synthetic, 10 classes, 256 x 256.
_base_ = './ade20k.py'
data_root = 'data/mini/ADEChallengeData2016'
crop_size = (128, 128)
classes = ('stripes', 'checks', 'dots', 'grain', 'disc', 'square', 'triangle', 'ring', 'cross', 'star')
palette = [
    [120, 120, 120],
    [180, 120, 60],
    [6, 120, 230],
    [80, 170, 80],
    [240, 60, 60],
    [240, 200, 20],
    [20, 210, 210],
    [160, 60, 220],
    [250, 130, 190],
    [100, 60, 20],
]
dataset = dict(
    _delete_=True,
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=dict(classes=classes, palette=palette),
    img_suffix='.jpg',
    seg_map_suffix='.png',
    reduce_zero_label=True,
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.9),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomFlip', prob=0.5, direction='vertical'),
    dict(type='PhotoMetricDistortion', hue_delta=90),  # all hues: colour shows no class here
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale_factor=r, keep_ratio=True) for r in (0.75, 1.0, 1.25)],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'), pipeline=train_pipeline, **dataset
    ),
)
val_dataloader = dict(
    num_workers=1,
    dataset=dict(
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'), pipeline=test_pipeline, **dataset
    ),
)
test_dataloader = val_dataloader
