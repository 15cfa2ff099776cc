# DeepViT on ImageNet-1K (official code): AdamW 5e-4 for batches of 256, cosine to 1e-5, 5 + 300 epochs; averaged weights.
_base_ = './imagenet_300e.py'
optim_wrapper = dict(type='AmpOptimWrapper', clip_grad=None, optimizer=dict(lr=0.0005, weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.002, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-05, by_epoch=True, begin=5, end=305, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=305)
auto_scale_lr = dict(base_batch_size=256)
