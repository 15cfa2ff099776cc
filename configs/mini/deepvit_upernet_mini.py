# A small DeepViT, in the proportions of deepvit-s, + UPerNet on the synthetic mini dataset, from scratch in minutes on a CPU.
# No number here is the paper's.
_base_ = './swinv2_upernet_mini.py'
iters = 1300
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvitscale.DeepViT',
        arch=dict(embed_dims=128, depth=8, re_attention=3, num_heads=4, stem='conv', residual_scale=0.5, transform_scale=True),
        img_size=128,
        out_indices=[1, 3, 5, 7],
        drop_path_rate=0.0,
    ),
    neck=dict(type='mmvitscale.SimplePyramid', in_channels=[128] * 4, out_channels=64),
    decode_head=dict(in_channels=[64] * 4),
    auxiliary_head=dict(in_channels=64),
    # Whole images (mode='whole') are a little worse than crops of the trained size: docs/deepvit.md.
    test_cfg=dict(_delete_=True, mode='slide', crop_size=(128, 128), stride=(64, 64)),
)
optim_wrapper = dict(optimizer=dict(lr=7e-4), paramwise_cfg=dict(_delete_=True))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=50, end=iters),
]
train_cfg = dict(max_iters=iters, val_interval=iters)
default_hooks = dict(checkpoint=dict(interval=iters))
