# SwinV2-T + Mask2Former on COCO, instances: mmdetection's recipe for Swin-T, in float32, where its matching
# cost overflows in float16 (open-mmlab/mmdetection#11559). The warm-up of 10 iterations of Mask2Former's own starts at the
# full rate and so is none.
_base_ = ['mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py', '../_base_/swinv2.py', '../_base_/runtime.py']
model = dict(
    backbone=dict(_base_.swinv2_detector, _delete_=True, drop_path_rate=0.3),
    panoptic_head=dict(in_channels=_base_.swinv2_channels.t),
)
optim_wrapper = dict(
    constructor='mmvitscale.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(_delete_=True, custom_keys=_base_.optim_wrapper.paramwise_cfg.custom_keys),
)
default_hooks = dict(checkpoint=dict(save_best='auto'))
