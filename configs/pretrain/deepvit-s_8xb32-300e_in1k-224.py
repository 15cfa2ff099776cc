# deepvit-s on ImageNet-1K, 224 x 224 (DeepViT, tables and README: 82.3 top-1).
_base_ = [
    '../_base_/models/classifier_deepvit.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/default_runtime_pretrain_ema.py',
    '../_base_/schedules/imagenet_300e_deepvit.py',
]
model = dict(backbone=dict(arch='deepvit-s'), head=dict(in_channels=396))
train_dataloader = dict(batch_size=32, dataset=dict(pipeline=_base_.size.px224_deepvit.train))
val_dataloader = dict(dataset=dict(pipeline=_base_.size.px224_deepvit.test))
test_dataloader = val_dataloader
