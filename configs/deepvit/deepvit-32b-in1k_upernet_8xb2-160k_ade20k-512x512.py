# DeepViT-32b + UPerNet on ADE20K at 512 x 512. The paper has no dense task: the recipe is ViT practice.
_base_ = [
    '../_base_/models/upernet_deepvit.py',
    '../_base_/datasets/ade20k_deepvit.py',
    '../_base_/schedules/ade20k_160k_vit.py',
    '../_base_/default_runtime_seg.py',
]
