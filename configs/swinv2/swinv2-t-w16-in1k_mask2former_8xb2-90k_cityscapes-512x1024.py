# SwinV2-T + Mask2Former on Cityscapes.
_base_ = [
    '../_base_/models/mask2former_swinv2.py',
    '../_base_/datasets/cityscapes_mask2former.py',
    '../_base_/schedules/mask2former_90k.py',
    '../_base_/default_runtime_seg.py',
]
model = dict(
    data_preprocessor=dict(size=(512, 1024)), decode_head=dict(num_classes=19, loss_cls=dict(class_weight=[1.0] * 19 + [0.1]))
)
