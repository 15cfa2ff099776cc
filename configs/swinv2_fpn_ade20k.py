# SwinV2-T + Semantic FPN on ADE20K at 512 x 512, window 16, pretrained at window 8. The paper has no Semantic FPN: the
# recipe is its UPerNet recipe.
_base_ = [
    '_base_/models/fpn_swinv2.py', '_base_/datasets/ade20k.py', '_base_/schedules/ade20k_160k.py',
    '_base_/default_runtime_seg.py'
]
model = dict(backbone=dict(pretrained_window_sizes=8))
