# ADE20K with crops of 640 x 640, and every scale with them.
_base_ = './ade20k.py'
crop_size = (640, 640)
scale = dict(scale=(2560, 640))
changes = dict(RandomResize=scale, Resize=scale, RandomCrop=dict(crop_size=crop_size))
train_pipeline = [dict(step, **changes.get(step.type, {})) for step in _base_.train_pipeline]
test_pipeline = [dict(step, **changes.get(step.type, {})) for step in _base_.test_pipeline]
resizes, *steps = _base_.tta_pipeline[1].transforms
resizes = [dict(step, scale=tuple(side * 640 // 512 for side in step.scale)) for step in resizes]
tta_pipeline = [_base_.tta_pipeline[0], dict(type='TestTimeAug', transforms=[resizes, *steps])]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
del scale, changes, resizes, steps
