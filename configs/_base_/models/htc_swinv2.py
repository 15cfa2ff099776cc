# mmdet's Hybrid Task Cascade on SwinV2-L, window 32, as HTC++ has it: Cascade Mask R-CNN's heads of SwinV1, here
# class-agnostic (github.com/VDIGPKU/CBNetV2's HTC with Swin), interleaved box and mask stages, and one block of global
# self-attention after the backbone (SwinV1, appendix A2.2). Without the semantic branch: see htc_semantic_swinv2.py.
_base_ = './cascade_mask_rcnn_swinv2.py'
mask_head = dict(
    type='HTCMaskHead',
    num_convs=4,
    in_channels=256,
    conv_out_channels=256,
    num_classes=80,
    loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0),
)
model = dict(
    type='HybridTaskCascade',
    backbone=dict(window_size=32, attention=['sequential', 'sequential', 'auto', 'auto'], **_base_.swinv2.l_in22k),
    neck=[
        dict(type='mmvitscale.GlobalAttention', in_channels=1536, num_heads=48, pretrained_window=48, with_cp=True),
        dict(_base_.model.neck, in_channels=_base_.swinv2_channels.l),
    ],
    roi_head=dict(
        type='HybridTaskCascadeRoIHead',
        interleaved=True,
        mask_info_flow=True,
        bbox_head=[dict(stage, reg_class_agnostic=True) for stage in _base_.model.roi_head.bbox_head],
        mask_head=[dict(mask_head, with_conv_res=False), mask_head, mask_head],
    ),
    test_cfg=dict(rcnn=dict(score_thr=0.001, nms=dict(_delete_=True, type='soft_nms', iou_threshold=0.5))),
)
