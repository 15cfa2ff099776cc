# SwinV2-L + Mask2Former on Cityscapes.
_base_ = './swinv2-t-w16-in1k_mask2former_8xb2-90k_cityscapes-512x1024.py'
model = dict(backbone=_base_.swinv2.l_in22k, decode_head=dict(in_channels=_base_.swinv2_channels.l))
