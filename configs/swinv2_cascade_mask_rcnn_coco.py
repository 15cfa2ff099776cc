# A short name; the recipe is in the file below.
_base_ = 'swinv2/cascade-mask-rcnn_swinv2-t-w16-in1k_fpn_8xb2-ms-crop-3x_coco.py'
