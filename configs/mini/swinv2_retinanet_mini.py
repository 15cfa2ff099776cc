# A small SwinV2 + RetinaNet on the synthetic mini dataset, from scratch in minutes on a CPU. No number here is the paper's.
_base_ = [
    '../_base_/models/retinanet_swinv2.py',
    '../_base_/datasets/mini_coco_detection.py',
    '../_base_/default_runtime_det.py',
    '../_base_/schedules/mini_detection.py',
]
model = dict(
    backbone=dict(
        _delete_=True,  # the weights, too
        type='mmvitscale.SwinTransformerV2',
        arch=dict(embed_dims=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8)),
        window_size=8,
        out_indices=[1, 2, 3],
        drop_path_rate=0.0,
    ),
    neck=dict(in_channels=[64, 128, 256], out_channels=64),
    bbox_head=dict(num_classes=6, in_channels=64, feat_channels=64, stacked_convs=2),
)
default_hooks = dict(logger=dict(log_metric_by_epoch=False), checkpoint=dict(by_epoch=False, interval=900))
log_processor = dict(by_epoch=False)
