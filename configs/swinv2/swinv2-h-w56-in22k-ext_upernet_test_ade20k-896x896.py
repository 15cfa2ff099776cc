# For testing what swinv2-h-w40-in22k-ext_upernet_32xb1-80k_ade20k-640x640.py has trained: at 896 with window 56.
_base_ = './swinv2-h-w40-in22k-ext_upernet_32xb1-80k_ade20k-640x640.py'
model = dict(backbone=dict(window_size=56))
test_pipeline = [dict(step, scale=(3584, 896)) if step.type == 'Resize' else step for step in _base_.test_pipeline]
resizes, *steps = _base_.tta_pipeline[1].transforms
resizes = [dict(step, scale=tuple(side * 896 // 640 for side in step.scale)) for step in resizes]
tta_pipeline = [_base_.tta_pipeline[0], dict(type='TestTimeAug', transforms=[resizes, *steps])]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
del resizes, steps
