# SwinV2-B + UPerNet at 640 x 640 with window 40, the paper's recipe for B and L, from the public ImageNet-22K weights.
_base_ = [
    '../_base_/models/upernet_swinv2.py', '../_base_/datasets/ade20k_640.py', '../_base_/schedules/ade20k_40k.py',
    '../_base_/default_runtime_seg.py', '../_base_/checkpoints.py'
]
model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(
        arch='base',
        window_size=40,
        pretrained_window_sizes=[12, 12, 12, 6],
        init_cfg=dict(type='mmvitscale.Pretrained', checkpoint={{_base_.swinv2_base_22k}})),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512))
train_dataloader = dict(batch_size=8)
