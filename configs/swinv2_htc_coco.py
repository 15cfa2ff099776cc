# A short name; the recipe is in the file below.
_base_ = 'swinv2/htc_swinv2-l-w32-in22k_fpn_64xb1-lsj1536-3x_coco.py'
