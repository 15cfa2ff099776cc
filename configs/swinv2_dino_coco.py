# SwinV2-T + DINO (4 scales, 12 epochs: DINO, arXiv 2203.03605) on COCO, window 16, pretrained at window 8.
_base_ = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvitscale.SwinTransformerV2',
        arch='tiny',
        window_size=16,
        pretrained_window_sizes=8,
        out_indices=[1, 2, 3],
        drop_path_rate=0.2),
    neck=dict(in_channels=[192, 384, 768]))
optim_wrapper = dict(constructor='mmvitscale.LayerDecayOptimWrapperConstructor')
runner_type = 'mmvitscale.Runner'
custom_hooks = [dict(type='mmvitscale.LogCPBTransferHook')]
val_evaluator = dict(type='FasterCocoMetric')
test_evaluator = val_evaluator
