# For plain ViTs on ADE20K, from the practice of BEiT and its followers: AdamW 6e-5, layer decay 0.9, otherwise as for
# SwinV2-T. DeepViT's paper has no dense task, so no number here is its own.
_base_ = './ade20k_160k.py'
optim_wrapper = dict(optimizer=dict(lr=6e-5), paramwise_cfg=dict(layer_decay_rate=0.9))
