# ImageNet in mmpretrain's form, at every size that the recipes use: size.px256.train, size.px256.test and so on.
# Augmentation of SwinV1 and V2 (arXiv 2103.14030, A2.1): RandAugment (9, 0.5), random erasing 0.25.
size = {}
for side, edge in ((192, 219), (224, 256), (256, 292)):
    size[f'px{side}'] = dict(
        train=[
            dict(type='LoadImageFromFile'),
            dict(type='RandomResizedCrop', scale=side, backend='pillow', interpolation='bicubic'),
            dict(type='RandomFlip', prob=0.5),
            dict(
                type='RandAugment',
                policies='timm_increasing',
                num_policies=2,
                total_level=10,
                magnitude_level=9,
                magnitude_std=0.5,
                hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic'),
            ),
            dict(
                type='RandomErasing',
                erase_prob=0.25,
                mode='rand',
                min_area_ratio=0.02,
                max_area_ratio=1 / 3,
                fill_color=[103.53, 116.28, 123.675],
                fill_std=[57.375, 57.12, 58.395],
            ),
            dict(type='PackInputs'),
        ],
        test=[
            dict(type='LoadImageFromFile'),
            dict(type='ResizeEdge', scale=edge, edge='short', backend='pillow', interpolation='bicubic'),
            dict(type='CenterCrop', crop_size=side),
            dict(type='PackInputs'),
        ],
    )
del side, edge
# At 384 the whole image is tested.
size['px384'] = dict(
    train=[dict(step, scale=384) if step['type'] == 'RandomResizedCrop' else step for step in size['px256']['train']],
    test=[
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(384, 384), backend='pillow', interpolation='bicubic'),
        dict(type='PackInputs'),
    ],
)
# DeepViT (timm): the same steps, 0.9 of the short side at the test.
size['px224_deepvit'] = dict(
    train=size['px224']['train'],
    test=[dict(step, scale=248) if step['type'] == 'ResizeEdge' else step for step in size['px224']['test']],
)
data_root = 'data/imagenet'
train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='ImageNet', data_root=data_root, split='train', pipeline=size['px256']['train']),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='ImageNet', data_root=data_root, split='val', pipeline=size['px256']['test']),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
