# The synthetic mini dataset at 96 x 96 with window 6, at many scales: what a position bias learns here is transferred to 1.5, 2
# and 3 times larger windows and images (Table 1 of the paper in small). model.backbone.position_bias says which; without 16
# x 16 patches of detail a scene of 96 pixels shows less than one of 256. No number here is the paper's.
_base_ = './swinv2_upernet_mini.py'
iters = 800
side = 96
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(side, side), ratio_range=(1.0, 1.7), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(side, side), cat_max_ratio=0.9),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomFlip', prob=0.5, direction='vertical'),
    dict(type='PhotoMetricDistortion', hue_delta=90),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(side, side)),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
model = dict(data_preprocessor=dict(size=(side, side)), backbone=dict(window_size=[6, 6, 6, 3]))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=50, end=iters),
]
train_cfg = dict(max_iters=iters, val_interval=iters)
default_hooks = dict(checkpoint=dict(interval=iters))
