# SwinV2-B, pretrained by SimMIM at window 12, fine-tuned on ImageNet-1K at 224 x 224, window 14 (stage 4: 7).
_base_ = [
    '../_base_/models/classifier_swinv2.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/default_runtime_pretrain.py',
    '../_base_/schedules/simmim_tune_100e.py',
]
model = dict(
    backbone=dict(
        arch='base',
        window_size=[14, 14, 14, 7],
        drop_path_rate=0.1,
        pretrained_window_sizes=[12, 12, 12, 6],
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/swinv2_base_simmim_window12_192.pth'),
    ),
    head=dict(in_channels=1024),
)
train_dataloader = dict(dataset=dict(pipeline=_base_.size.px224.train))
val_dataloader = dict(dataset=dict(pipeline=_base_.size.px224.test))
test_dataloader = val_dataloader
