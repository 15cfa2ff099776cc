# Fine-tuning after ImageNet-22K (official code): rates for batches of 1024, 2e-5 for 512.
_base_ = './imagenet_300e.py'
optim_wrapper = dict(optimizer=dict(lr=4e-05, weight_decay=1e-08))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=4e-07, by_epoch=True, begin=5, end=30, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=30, val_interval=1)
auto_scale_lr = dict(base_batch_size=1024)
