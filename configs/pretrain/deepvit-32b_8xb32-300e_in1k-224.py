# deepvit-32b on ImageNet-1K, 224 x 224 (DeepViT, tables and README: 80.90 top-1).
_base_ = [
    '../_base_/models/classifier_deepvit.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/default_runtime_pretrain_ema.py',
    '../_base_/schedules/imagenet_300e_deepvit.py',
]
model = dict(backbone=dict(arch='deepvit-32b', similarity_loss_weight=0.1), head=dict(in_channels=384))
train_dataloader = dict(batch_size=32, dataset=dict(pipeline=_base_.size.px224_deepvit.train))
val_dataloader = dict(dataset=dict(pipeline=_base_.size.px224_deepvit.test))
test_dataloader = val_dataloader
