# SwinV2-B, pretrained on ImageNet-22K at window 12, fine-tuned on ImageNet-1K at 384 x 384, window 24 (README of the
# official code: 87.1 top-1).
_base_ = [
    '../_base_/models/classifier_swinv2.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/default_runtime_pretrain.py',
    '../_base_/schedules/imagenet_tune_30e.py',
]
model = dict(
    backbone=dict(
        arch='base',
        window_size=[24, 24, 24, 12],
        drop_path_rate=0.2,
        with_cp=True,
        pretrained_window_sizes=[12, 12, 12, 6],
        init_cfg=dict(type='Pretrained', checkpoint=_base_.swinv2.b_in22k.init_cfg.checkpoint),
    ),
    head=dict(in_channels=1024),
)
train_dataloader = dict(dataset=dict(pipeline=_base_.size.px384.train))
val_dataloader = dict(dataset=dict(pipeline=_base_.size.px384.test))
test_dataloader = val_dataloader
