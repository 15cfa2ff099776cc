_base_ = 'deepvit/deepvit-32b-in1k_fpn_8xb4-80k_ade20k-512x512.py'
