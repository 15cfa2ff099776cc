# SwinV2-T + Mask2Former on ADE20K at 512 x 512, window 16, pretrained at window 8. The optimisation is Mask2Former's
# (arXiv 2112.01527): AdamW 1e-4 with a tenth of it for the backbone, clipping at 0.01, polynomial decay to 160k.
_base_ = [
    '_base_/models/mask2former_swinv2.py', '_base_/datasets/ade20k.py', '_base_/schedules/ade20k_160k.py',
    '_base_/default_runtime_seg.py'
]
model = dict(backbone=dict(pretrained_window_sizes=8))
no_decay = dict(decay_mult=0.0)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4),
    paramwise_cfg=dict(
        layer_decay_rate=1.0,
        custom_keys=dict(
            backbone=dict(lr_mult=0.1), query_embed=no_decay, query_feat=no_decay, level_embed=no_decay)),
    clip_grad=dict(max_norm=0.01))
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, begin=0, end=160000)]
