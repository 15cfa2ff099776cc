# A short name; the recipe is in the file below.
_base_ = 'swinv2/swinv2-t-w20-in1k_mask2former_8xb2-160k_ade20k-640x640.py'
