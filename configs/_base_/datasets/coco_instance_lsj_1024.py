# The same, tested on images whose long side is 1024 (ViTDet; mmdetection, projects/ViTDet), without its padding to a square:
# a batch is as large as its largest image, and the backbone is given where the others end.
_base_ = './coco_instance_lsj.py'
train_pipeline = [step for step in _base_.train_pipeline if step.type != 'Pad']
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=_base_.image_size, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
