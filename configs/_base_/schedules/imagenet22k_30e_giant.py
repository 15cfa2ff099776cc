# SwinV2-G on labelled images after SimMIM (SwinV2, appendix): batches of 9216, layer decay 0.87, gradients clipped at 100.
# Warm-up and end of the cosine are not in the paper.
_base_ = './imagenet_300e.py'
optim_wrapper = dict(
    optimizer=dict(lr=0.0014, weight_decay=0.1), paramwise_cfg=dict(layer_decay_rate=0.87), clip_grad=dict(max_norm=100.0)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1.4e-05, by_epoch=True, begin=1, end=30, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=30)
auto_scale_lr = dict(base_batch_size=9216)
val_cfg = None
test_cfg = None
