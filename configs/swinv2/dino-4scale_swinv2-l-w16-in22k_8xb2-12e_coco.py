# SwinV2-L + DINO with 4 scales.
_base_ = './dino-4scale_swinv2-t-w16-in1k_8xb2-12e_coco.py'
model = dict(backbone=_base_.swinv2.l_in22k, neck=dict(in_channels=_base_.swinv2_channels.l[1:]))
