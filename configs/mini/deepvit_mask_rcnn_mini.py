# A small DeepViT + Mask R-CNN on the embedded scenes at varying sizes, from scratch in minutes on a CPU. No number here is the
# paper's.
_base_ = './swinv2_mask_rcnn_mini.py'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomChoiceResize', scales=[(side, side) for side in range(192, 321, 32)], keep_ratio=True),
    *_base_.train_pipeline[3:],
]
model = dict(
    data_preprocessor=dict(type='mmvitscale.DetPaddingPreprocessor'),
    backbone=dict(
        _delete_=True,
        type='mmvitscale.DeepViT',
        arch=dict(
            embed_dims=128, depth=8, re_attention=3, num_heads=4, stem='conv', residual_scale=0.5, transform_scale=True),
        img_size=256,
        out_indices=[1, 3, 5, 7],
        drop_path_rate=0.0),
    neck=dict(_delete_=True, type='mmvitscale.SimplePyramid', in_channels=[128] * 4, out_channels=64, num_outs=5))
optim_wrapper = dict(optimizer=dict(lr=7e-4), paramwise_cfg=dict(_delete_=True))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
