# Fine-tuning after SimMIM (official code): rates for batches of 2048, 1.25e-3 for 512; layer decay 0.75.
_base_ = './imagenet_300e.py'
optim_wrapper = dict(optimizer=dict(lr=0.005, weight_decay=0.05), paramwise_cfg=dict(layer_decay_rate=0.75))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.0002, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-06, by_epoch=True, begin=20, end=100, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=100)
auto_scale_lr = dict(base_batch_size=2048)
