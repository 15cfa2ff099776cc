# SwinV2-L + DINO with 5 scales, 36 epochs: mmdetection's recipe for Swin-L, its model in all but the backbone.
_base_ = ['mmdet::dino/dino-5scale_swin-l_8xb2-36e_coco.py', '../_base_/swinv2.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvitscale.SwinTransformerV2',
        window_size=16,
        drop_path_rate=0.2,
        **_base_.swinv2.l_in22k))
optim_wrapper = dict(constructor='mmvitscale.LayerDecayOptimWrapperConstructor')
runner_type = 'mmvitscale.Runner'
custom_hooks = [dict(type='mmvitscale.LogCPBTransferHook')]
val_evaluator = dict(type='FasterCocoMetric')
test_evaluator = val_evaluator
