# SwinV2-L + Mask2Former, from the public ImageNet-22K weights.
_base_ = ['../swinv2_mask2former_ade20k.py', '../_base_/checkpoints.py']
model = dict(
    backbone=dict(
        arch='large',
        pretrained_window_sizes=[12, 12, 12, 6],
        with_cp=True,
        init_cfg=dict(type='mmvitscale.Pretrained', checkpoint={{_base_.swinv2_large_22k}})),
    decode_head=dict(in_channels=[192, 384, 768, 1536]))
