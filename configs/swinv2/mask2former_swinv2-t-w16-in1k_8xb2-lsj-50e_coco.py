# SwinV2-T + Mask2Former on COCO, instances: mmdetection's recipe for Swin-T, in float32, where its matching
# cost overflows in float16 (open-mmlab/mmdetection#11559). The warm-up of 10 iterations of Mask2Former's own starts at the
# full rate and so is none.
_base_ = ['mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py', '../_base_/swinv2.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvitscale.SwinTransformerV2',
        window_size=16,
        drop_path_rate=0.3,
        **_base_.swinv2.t_in1k),
    panoptic_head=dict(in_channels=_base_.swinv2_channels.t))
optim_wrapper = dict(
    constructor='mmvitscale.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(_delete_=True, custom_keys=_base_.optim_wrapper.paramwise_cfg.custom_keys))
runner_type = 'mmvitscale.Runner'
custom_hooks = [dict(type='mmvitscale.LogCPBTransferHook')]
