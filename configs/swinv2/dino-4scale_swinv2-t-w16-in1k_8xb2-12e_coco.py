# SwinV2-T + DINO (4 scales, 12 epochs: arXiv 2203.03605) on COCO, window 16, pretrained at window 8.
_base_ = ['mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py', '../_base_/swinv2.py', '../_base_/runtime.py']
model = dict(
    backbone=dict(_delete_=True, out_indices=[1, 2, 3], **_base_.swinv2_detector),
    neck=dict(in_channels=_base_.swinv2_channels.t[1:]),
)
optim_wrapper = dict(constructor='mmvitscale.LayerDecayOptimWrapperConstructor')
val_evaluator = dict(type='FasterCocoMetric')
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(save_best='auto'))
