# SimMIM on the synthetic mini dataset, 96 x 96, window 6: the first link of a chain in minutes on a CPU. Pixels as they are, so
# that the loss can be looked at. No number here is the paper's.
_base_ = [
    '../_base_/models/simmim_swinv2.py',
    '../_base_/datasets/mini_simmim.py',
    '../_base_/schedules/mini_pretrain.py',
    '../_base_/default_runtime_mini_pretrain.py',
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvitscale.MaskedSwinTransformerV2',
        arch=dict(embed_dims=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8)),
        window_size=[6, 6, 6, 3],
        out_indices=[3],
        drop_path_rate=0.0,
    ),
    neck=dict(in_channels=256),
    head=dict(loss=dict(_delete_=True, type='PixelReconstructionLoss', criterion='L1', channel=3)),
)
# The blocks' norms start at zero and grow by about a learning rate an iteration: too slow for so short a training.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'norm1': dict(lr_mult=10.0), 'norm2': dict(lr_mult=10.0)}))
