# ImageNet-1K for SimMIM, 192 x 192, masked patches of 32 x 32, 60% (SimMIM, arXiv 2111.09886, and SwinV2's official code).
data_root = 'data/imagenet'
mask = dict(type='SimMIMMaskGenerator', input_size=192, mask_patch_size=32, model_patch_size=4, mask_ratio=0.6)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=192, crop_ratio_range=(0.67, 1.0)),
    dict(type='RandomFlip', prob=0.5),
    mask,
    dict(type='PackInputs'),
]
# What tools/predict.py reconstructs.
predict_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=219, edge='short', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=192),
    mask,
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='ImageNet', data_root=data_root, split='train', pipeline=train_pipeline),
)
