# For plain ViTs on ADE20K: BEiT-B's rate of 3e-5 (arXiv 2106.08254, its ADE20K recipe) with the layer decay of
# _base_/deepvit.py, so that the stem learns as fast as BEiT-B's; otherwise as for SwinV2-T, which is BEiT's recipe too.
# DeepViT's paper has no dense task, so no number here is its own.
_base_ = './ade20k_160k.py'
optim_wrapper = dict(optimizer=dict(lr=3e-5), paramwise_cfg=dict(layer_decay_rate=0.96))
