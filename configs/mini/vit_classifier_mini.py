# A deep and narrow plain ViT, 24 blocks of 96 channels, that classifies the dominant object of the synthetic mini dataset:
# DeepViT's study of depth and width (section 4.1) in small. Others: model.backbone.arch.depth=12
# model.backbone.arch.embed_dims=192 model.backbone.arch.num_heads=6 model.head.in_channels=192; with Re-attention:
# model.backbone.arch.re_attention=24; with the regulariser: model.backbone.similarity_loss_weight=0.1. No number here is the
# paper's.
_base_ = [
    '../_base_/models/classifier_deepvit.py',
    '../_base_/datasets/mini_classification.py',
    '../_base_/schedules/mini_pretrain.py',
    '../_base_/default_runtime_mini_pretrain.py',
]
model = dict(
    data_preprocessor=dict(num_classes=6),
    backbone=dict(
        _delete_=True,
        type='mmvitscale.DeepViT',
        arch=dict(embed_dims=96, depth=24, re_attention=0, num_heads=3),
        img_size=96,
        out_type='cls_token',
        drop_path_rate=0.0,
    ),
    head=dict(in_channels=96, num_classes=6),
    train_cfg=dict(_delete_=True),
)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
