# SwinV2-B and -L on ImageNet-22K (SwinV2, appendix, and official code): batches of 4096.
_base_ = './imagenet_300e.py'
optim_wrapper = dict(optimizer=dict(lr=0.001, weight_decay=0.1))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-05, by_epoch=True, begin=5, end=90, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=90)
auto_scale_lr = dict(base_batch_size=4096)
val_cfg = None
test_cfg = None
