# A plain ViT of 12 blocks and 384 channels: more width in place of more depth (DeepViT, section 4.1). Heads of 32 channels,
# as the 384 of the official models have.
_base_ = [
    '../_base_/models/classifier_deepvit.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/default_runtime_pretrain_ema.py',
    '../_base_/schedules/imagenet_300e_deepvit.py',
]
arch = dict(_delete_=True, embed_dims=384, depth=12, re_attention=0, num_heads=12)
model = dict(backbone=dict(arch=arch), head=dict(in_channels=384))
train_dataloader = dict(batch_size=32, dataset=dict(pipeline=_base_.size.px224_deepvit.train))
val_dataloader = dict(dataset=dict(pipeline=_base_.size.px224_deepvit.test))
test_dataloader = val_dataloader
