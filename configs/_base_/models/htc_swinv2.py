# mmdet's Hybrid Task Cascade without the semantic branch, on SwinV2-T: Cascade Mask R-CNN with interleaved box and mask
# stages and mask information flow. Where COCO's stuffthingmaps are at hand, the branch is mmdet's FusedSemanticHead: see
# semantic_roi_extractor and semantic_head in mmdet's configs/htc/htc_r50_fpn_1x_coco.py.
_base_ = './cascade_mask_rcnn_swinv2.py'
mask_head = dict(
    type='HTCMaskHead',
    num_convs=4,
    in_channels=256,
    conv_out_channels=256,
    num_classes=80,
    loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0))
model = dict(
    type='HybridTaskCascade',
    roi_head=dict(
        type='HybridTaskCascadeRoIHead',
        interleaved=True,
        mask_info_flow=True,
        mask_head=[dict(with_conv_res=False, **mask_head), mask_head, mask_head]),
    test_cfg=dict(rcnn=dict(score_thr=0.001)))
