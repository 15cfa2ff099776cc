# A small SwinV2 + UPerNet on the synthetic mini dataset, from scratch in minutes on a CPU. No number here is the paper's.
_base_ = [
    '../_base_/models/upernet_swinv2.py',
    '../_base_/datasets/mini_ade20k.py',
    '../_base_/schedules/ade20k_160k.py',
    '../_base_/default_runtime_seg.py',
]
num_classes = 10
channels = [32, 64, 128, 256]
iters = 1250
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(
        _delete_=True,  # the weights, too
        type='mmvitscale.SwinTransformerV2',
        arch=dict(embed_dims=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8)),
        window_size=8,
        drop_path_rate=0.0,
    ),
    decode_head=dict(in_channels=channels, channels=48, num_classes=num_classes),
    auxiliary_head=dict(in_channels=128, channels=32, num_classes=num_classes),
)
# The blocks' norms start at zero and grow by about a learning rate an iteration: slow for so short a training.
norm_keys = {'norm1': dict(lr_mult=3.0), 'norm2': dict(lr_mult=3.0)}
optim_wrapper = dict(
    optimizer=dict(lr=2e-3), paramwise_cfg=dict(layer_decay_rate=1.0, custom_keys=norm_keys), clip_grad=dict(max_norm=5.0)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=50, end=iters),
]
auto_scale_lr = dict(base_batch_size=8)
train_cfg = dict(max_iters=iters, val_interval=iters)
default_hooks = dict(checkpoint=dict(interval=iters))
randomness = dict(seed=0)
