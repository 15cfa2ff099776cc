# SwinV2-B + UPerNet at 640 x 640 with window 40, the paper's recipe for B and L.
_base_ = [
    '../_base_/models/upernet_swinv2.py',
    '../_base_/datasets/ade20k_640.py',
    '../_base_/schedules/ade20k_40k.py',
    '../_base_/default_runtime_seg.py',
]
model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(window_size=40, **_base_.swinv2.b_in22k),
    decode_head=dict(in_channels=_base_.swinv2_channels.b),
    auxiliary_head=dict(in_channels=512),
)
train_dataloader = dict(batch_size=8)
