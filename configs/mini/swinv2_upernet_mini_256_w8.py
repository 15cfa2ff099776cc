# The synthetic mini dataset at full size, 256 x 256, with window 8, for a few iterations: the fine-tuning of a window transfer.
# Give the backbone the weights of swinv2_upernet_mini_128_w4.py with
#   --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=CKPT
# or leave them out to see what the same iterations make from scratch.
_base_ = './swinv2_upernet_mini.py'
iters = 200
model = dict(data_preprocessor=dict(size=(256, 256)))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomFlip', prob=0.5, direction='vertical'),
    dict(type='PhotoMetricDistortion', hue_delta=90),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=20, end=iters),
]
auto_scale_lr = dict(base_batch_size=4)
train_cfg = dict(max_iters=iters, val_interval=iters)
default_hooks = dict(checkpoint=dict(interval=iters))
