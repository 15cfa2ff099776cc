# A small SwinV2 that classifies the dominant object of the synthetic mini dataset, 96 x 96, window 6: the middle link of a
# chain. No number here is the paper's.
_base_ = [
    '../_base_/models/classifier_swinv2.py',
    '../_base_/datasets/mini_classification.py',
    '../_base_/schedules/mini_pretrain.py',
    '../_base_/default_runtime_mini_pretrain.py',
]
model = dict(
    data_preprocessor=dict(num_classes=6),
    backbone=dict(
        _delete_=True,
        type='mmvitscale.SwinTransformerV2',
        arch=dict(embed_dims=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8)),
        window_size=[6, 6, 6, 3],
        out_indices=[3],
        drop_path_rate=0.0,
    ),
    head=dict(in_channels=256, num_classes=6),
    train_cfg=dict(_delete_=True),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'norm1': dict(lr_mult=10.0), 'norm2': dict(lr_mult=10.0)}))
