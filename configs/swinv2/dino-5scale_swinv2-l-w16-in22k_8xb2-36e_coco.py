# SwinV2-L + DINO with 5 scales, 36 epochs: mmdetection's recipe for Swin-L, its model in all but the backbone.
_base_ = ['mmdet::dino/dino-5scale_swin-l_8xb2-36e_coco.py', '../_base_/swinv2.py', '../_base_/runtime.py']
model = dict(backbone=dict(_base_.swinv2_detector, _delete_=True, **_base_.swinv2.l_in22k))
optim_wrapper = dict(constructor='mmvitscale.LayerDecayOptimWrapperConstructor')
val_evaluator = dict(type='FasterCocoMetric')
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(save_best='auto'))
