# COCO for HTC++ (SwinV2, appendix): large-scale jitter at 1536 x 1536; tested with the short side at 1100 (Table 3 of the
# paper: "1100"), the long side at most 1.667 times that, as 1333 is to 800; multi-scale testing around it, whose scales the
# paper does not say.
_base_ = './coco_instance_lsj.py'
image_size = (1536, 1536)
changes = dict(RandomResize=dict(scale=image_size), RandomCrop=dict(crop_size=image_size), Pad=dict(size=image_size))
train_pipeline = [dict(step, **changes.get(step.type, {})) for step in _base_.train_pipeline]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(1833, 1100), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
tta_pipeline = [
    _base_.tta_steps[0],
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=(s * 5 // 3, s), keep_ratio=True) for s in (800, 1000, 1100, 1200, 1400)],
            *_base_.tta_steps[1].transforms[1:],
        ],
    ),
]
tta_model = dict(nms=dict(_delete_=True, type='soft_nms', iou_threshold=0.5))
train_dataloader = dict(batch_size=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
