# SimMIM of SwinV2-B (official code): rates for batches of 2048, 1e-4 for 512; a tenth after epoch 700.
_base_ = './imagenet_300e.py'
optim_wrapper = dict(optimizer=dict(lr=0.0004, weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.005, by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
    dict(type='MultiStepLR', milestones=[700], gamma=0.1, by_epoch=True),
]
train_cfg = dict(max_epochs=800)
auto_scale_lr = dict(base_batch_size=2048)
val_cfg = None
test_cfg = None
