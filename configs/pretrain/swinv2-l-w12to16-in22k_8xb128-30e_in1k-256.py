# SwinV2-L, pretrained on ImageNet-22K at window 12, fine-tuned on ImageNet-1K at 256 x 256, window 16 (README of the
# official code: 86.9 top-1).
_base_ = [
    '../_base_/models/classifier_swinv2.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/default_runtime_pretrain.py',
    '../_base_/schedules/imagenet_tune_30e.py',
]
model = dict(
    backbone=dict(
        arch='large',
        window_size=[16, 16, 16, 8],
        drop_path_rate=0.2,
        pretrained_window_sizes=[12, 12, 12, 6],
        init_cfg=dict(type='Pretrained', checkpoint=_base_.swinv2.l_in22k.init_cfg.checkpoint),
    ),
    head=dict(in_channels=1536),
)
train_dataloader = dict(dataset=dict(pipeline=_base_.size.px256.train))
val_dataloader = dict(dataset=dict(pipeline=_base_.size.px256.test))
test_dataloader = val_dataloader
