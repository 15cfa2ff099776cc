# A small SwinV2 + Mask R-CNN on the synthetic mini dataset, from scratch in minutes on a CPU. No number here is the paper's.
_base_ = [
    '../_base_/models/mask_rcnn_swinv2.py',
    '../_base_/datasets/mini_coco_instance.py',
    '../_base_/default_runtime_det.py',
    '../_base_/schedules/mini_detection.py',
]
num_classes = 6
roi_channels = dict(in_channels=64, num_classes=num_classes)
model = dict(
    backbone=dict(
        _delete_=True,  # the weights, too
        type='mmvitscale.SwinTransformerV2',
        arch=dict(embed_dims=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8)),
        window_size=8,
        drop_path_rate=0.0,
    ),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(fc_out_channels=256, **roi_channels),
        mask_roi_extractor=dict(out_channels=64),
        mask_head=dict(num_convs=2, conv_out_channels=64, **roi_channels),
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=500, max_per_img=200), rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)),
)
default_hooks = dict(logger=dict(log_metric_by_epoch=False), checkpoint=dict(by_epoch=False, interval=900))
log_processor = dict(by_epoch=False)
