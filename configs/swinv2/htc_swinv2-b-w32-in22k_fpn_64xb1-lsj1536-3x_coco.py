# SwinV2-B + HTC++, the paper's recipe; drop path 0.3 as in CBNetV2's HTC with Swin-B.
_base_ = './htc_swinv2-l-w32-in22k_fpn_64xb1-lsj1536-3x_coco.py'
model = dict(
    backbone=dict(drop_path_rate=0.3, **_base_.swinv2.b_in22k),
    neck=[
        dict(_base_.model.neck[0], in_channels=1024, num_heads=32),
        dict(_base_.model.neck[1], in_channels=_base_.swinv2_channels.b),
    ],
)
