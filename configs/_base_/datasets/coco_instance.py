# COCO boxes and masks.
_base_ = ['mmdet::_base_/datasets/coco_instance.py', './coco_multi_scale.py']
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    *_base_.multi_scale,
]
tta_pipeline = _base_.tta_steps
tta_model = dict(type='mmvitscale.MaskTTAModel', nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_evaluator = dict(type='FasterCocoMetric')
test_evaluator = val_evaluator
