# Mask2Former for semantic segmentation (arXiv 2112.01527; github.com/facebookresearch/Mask2Former): AdamW 1e-4 with a
# tenth of it for the backbone, weight decay 0.05 but none on norms and embeddings, clipping at 0.01, polynomial decay of
# power 0.9 without warm-up; batch 16 in all, here 8 GPUs x 2. ADE20K takes 160k iterations. Its mixed precision is off, as
# in mmsegmentation's: mmdetection's matching cost overflows in float16 (open-mmlab/mmdetection#11559).
_base_ = './ade20k_160k.py'
no_decay = dict(decay_mult=0.0)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4),
    paramwise_cfg=dict(
        layer_decay_rate=1.0,
        custom_keys=dict(backbone=dict(lr_mult=0.1), query_embed=no_decay, query_feat=no_decay, level_embed=no_decay),
    ),
    clip_grad=dict(max_norm=0.01),
)
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, begin=0, end=_base_.iters)]
