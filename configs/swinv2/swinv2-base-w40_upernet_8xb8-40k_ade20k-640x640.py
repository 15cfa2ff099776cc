# SwinV2-B + UPerNet at 640 x 640 with window 40, the paper's recipe for B and L, from the public ImageNet-22K weights.
_base_ = [
    '../_base_/models/upernet_swinv2.py', '../_base_/datasets/ade20k_640.py', '../_base_/schedules/ade20k_40k.py',
    '../_base_/default_runtime_seg.py'
]
# window 12 (stage 4: 6) at 192 x 192, listed in the README of github.com/microsoft/Swin-Transformer
checkpoint = 'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/swinv2_base_patch4_window12_192_22k.pth'
model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(
        arch='base',
        window_size=40,
        pretrained_window_sizes=[12, 12, 12, 6],
        init_cfg=dict(type='mmvitscale.Pretrained', checkpoint=checkpoint)),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512))
train_dataloader = dict(batch_size=8)
