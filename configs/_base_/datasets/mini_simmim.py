# The synthetic mini dataset (python tools/make_mini_dataset.py) for masked pretraining: 96 x 96 cuts, at the scale that 192 x
# 192 fine- tuning sees, with masked patches of 16 x 16. Synthetic.
data_root = 'data/mini/ADEChallengeData2016'
mask = dict(type='SimMIMMaskGenerator', input_size=96, mask_patch_size=16, model_patch_size=4, mask_ratio=0.6)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=96, crop_ratio_range=(0.15, 0.5), interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomFlip', prob=0.5, direction='vertical'),
    mask,
    dict(type='PackInputs'),
]
predict_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=192, interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=96),
    mask,
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='CustomDataset', data_root=data_root, data_prefix='images/training', with_label=False, pipeline=train_pipeline
    ),
)
