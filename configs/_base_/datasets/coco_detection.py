# COCO boxes.
_base_ = ['mmdet::_base_/datasets/coco_detection.py', './coco_multi_scale.py']
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    *_base_.multi_scale,
]
tta_pipeline = _base_.tta_steps
tta_model = dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_evaluator = dict(type='FasterCocoMetric')
test_evaluator = val_evaluator
