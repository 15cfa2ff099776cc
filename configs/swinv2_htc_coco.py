_base_ = 'swinv2/htc_swinv2-l-w32-in22k_fpn_64xb1-lsj1536-3x_coco.py'
