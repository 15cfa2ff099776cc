# SwinV2-H on labelled images after SimMIM, 192 x 192, window 12 (stage 4: 6). No source has it: the recipe is the giant's.
_base_ = './swinv2-g-w12-simmim_288xb32-30e_in22k-ext-192.py'
model = dict(
    backbone=dict(arch='huge', init_cfg=dict(type='Pretrained', checkpoint='checkpoints/swinv2_huge_simmim_window12_192.pth')),
    head=dict(in_channels=2816),
)
