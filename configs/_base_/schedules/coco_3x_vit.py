# For plain ViTs on COCO: the schedule of SwinV2-T with the layer decay of _base_/deepvit.py and clipping, as is ViT
# practice. DeepViT's paper has no dense task, so no number here is its own.
_base_ = './coco_3x.py'
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.96), clip_grad=dict(max_norm=1.0))
