# A short name; the recipe is in the file below.
_base_ = 'deepvit/deepvit-32b-in1k_fpn_8xb4-80k_ade20k-512x512.py'
