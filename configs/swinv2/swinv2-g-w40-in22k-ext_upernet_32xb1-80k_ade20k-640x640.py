# SwinV2-G + UPerNet at 640 x 640 with window 40 (SwinV2, Table 4: 59.1 mIoU; tested at 896 with window 56 59.3, there with
# multi-scale testing, too, 59.9: swinv2-g-w56-in22k-ext_upernet_test_ade20k-896x896.py).
_base_ = [
    '../_base_/models/upernet_swinv2.py',
    '../_base_/datasets/ade20k_640.py',
    '../_base_/schedules/ade20k_80k_giant.py',
    '../_base_/default_runtime_seg.py',
]
model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(_base_.swinv2.g_in22k_ext, window_size=40, drop_path_rate=0.4),
    decode_head=dict(in_channels=_base_.swinv2_channels.g),
    auxiliary_head=dict(in_channels=2048),
)
train_dataloader = dict(batch_size=1)
