# A short name; the recipe is in the file below.
_base_ = 'swinv2/dino-4scale_swinv2-t-w16-in1k_8xb2-12e_coco.py'
