# SwinV2-L + Mask2Former at 640 x 640.
_base_ = './swinv2-t-w20-in1k_mask2former_8xb2-160k_ade20k-640x640.py'
model = dict(backbone=_base_.swinv2.l_in22k, decode_head=dict(in_channels=_base_.swinv2_channels.l))
