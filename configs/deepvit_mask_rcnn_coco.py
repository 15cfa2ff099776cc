# DeepViT-32b + Mask R-CNN on COCO, always at 1024 x 1024: scale jitter and crops in training, padding in testing (the
# practice for plain ViTs, arXiv 2203.16527). Re-attention's BatchNorm learns the statistics of maps with one number of
# tokens, so training and testing must agree on it. The paper has no dense task: no number here is its own.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py', '_base_/datasets/coco_instance_lsj_1024.py',
    '_base_/schedules/coco_3x_vit.py', '_base_/default_runtime_det.py'
]
image_size = (1024, 1024)
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvitscale.DeepViT',
        arch='deepvit-32b',
        img_size=1024,
        with_cp=True,
        drop_path_rate=0.2),
    neck=dict(_delete_=True, type='mmvitscale.SimplePyramid', in_channels=384, out_channels=256, num_outs=5))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_size, keep_ratio=True),
    dict(type='Pad', size=image_size, pad_val=dict(img=(114, 114, 114))),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
