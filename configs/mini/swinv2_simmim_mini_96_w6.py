# SimMIM on the embedded scenes, 96 x 96, window 6: the first link of a chain in minutes on a CPU. Pixels as they are, so that
# the loss can be looked at. No number here is the paper's.
_base_ = ['../_base_/models/simmim_swinv2.py', '../_base_/datasets/mini_simmim.py', '../_base_/default_runtime_pretrain.py']
iters = 1000
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvitscale.MaskedSwinTransformerV2',
        arch=dict(embed_dims=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8)),
        window_size=[6, 6, 6, 3],
        out_indices=[3],
        drop_path_rate=0.0),
    neck=dict(in_channels=256),
    head=dict(loss=dict(_delete_=True, type='PixelReconstructionLoss', criterion='L1', channel=3)))
# The blocks' norms start at zero and grow by about a learning rate an iteration: too slow for so short a training.
norm_keys = {'norm1': dict(lr_mult=10.0), 'norm2': dict(lr_mult=10.0)}
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='mmvitscale.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(custom_keys=norm_keys),
    clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=2e-5, by_epoch=False, begin=50, end=iters),
]
auto_scale_lr = dict(base_batch_size=16)
train_cfg = dict(by_epoch=False, max_iters=iters)
default_hooks = dict(
    logger=dict(interval=50, log_metric_by_epoch=False), checkpoint=dict(by_epoch=False, interval=iters))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
