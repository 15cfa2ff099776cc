# A short name; the recipe is in the file below.
_base_ = 'deepvit/deepvit-32b-in1k_upernet_8xb2-160k_ade20k-512x512.py'
