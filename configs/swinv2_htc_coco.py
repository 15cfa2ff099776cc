# SwinV2-L + HTC++ on COCO at 1536 x 1536 with window 32 (SwinV2, appendix; 60.8 box AP on test-dev): AdamW 4e-4 with 0.1
# of it for the backbone, batch 64 (here 64 GPUs x 1), 3x, scale jitter 0.1 to 2.0, soft-NMS. Window 48 is for testing:
#   tools/test.py CONFIG CKPT --cfg-options model.backbone.window_size=48
# Sequential attention in the first two stages and checkpointed blocks make it fit (section 3.5). InstaBoost, which the
# "++" also names, needs a package of its own: put dict(type='InstaBoost') after LoadImageFromFile.
_base_ = [
    '_base_/models/htc_swinv2.py', '_base_/datasets/coco_instance_lsj_1536.py', '_base_/schedules/coco_3x.py',
    '_base_/default_runtime_det.py'
]
model = dict(
    backbone=dict(
        arch='large',
        window_size=32,
        pretrained_window_sizes=[12, 12, 12, 6],
        attention=['sequential', 'sequential', 'auto', 'auto'],
        with_cp=True),
    neck=dict(in_channels=[192, 384, 768, 1536]),
    test_cfg=dict(rcnn=dict(nms=dict(_delete_=True, type='soft_nms', iou_threshold=0.5))))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(1536, 1536), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(batch_size=1)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(
    optimizer=dict(lr=4e-4), paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))))
auto_scale_lr = dict(base_batch_size=64)
