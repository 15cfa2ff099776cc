# SimMIM of SwinV2-H, 192 x 192, window 12 (stage 4: 6). No source has it: the recipe is the giant's.
_base_ = './swinv2-g-w12_simmim_288xb32-20e_in22k-ext-192.py'
model = dict(backbone=dict(arch='huge'), neck=dict(in_channels=2816))
