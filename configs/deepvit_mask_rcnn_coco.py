# A short name; the recipe is in the file below.
_base_ = 'deepvit/mask-rcnn_deepvit-32b-in1k_simple-pyramid_8xb2-lsj1024-3x_coco.py'
