# DeepViT-32b + Mask R-CNN on COCO, short side 480 to 800. The paper has no dense task: the recipe is ViT practice.
# Training sees many numbers of tokens, and Re-attention's BatchNorm averages their statistics.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py', 'mmdet::_base_/datasets/coco_instance.py',
    '_base_/schedules/coco_3x_vit.py', 'mmdet::_base_/default_runtime.py'
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvitscale.DeepViT',
        arch='deepvit-32b',
        img_size=1024,
        with_cp=True,
        drop_path_rate=0.2),
    neck=dict(_delete_=True, type='mmvitscale.SimplePyramid', in_channels=384, out_channels=256, num_outs=5))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='RandomChoiceResize',
        scales=[(1333, s) for s in range(480, 801, 32)],
        keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
