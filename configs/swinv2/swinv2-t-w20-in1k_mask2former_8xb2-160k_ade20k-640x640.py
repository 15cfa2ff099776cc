# SwinV2-T + Mask2Former on ADE20K at 640 x 640, where Mask2Former has its Swin-B and -L (its Swin-T and -S are at 512), with
# window 20, which divides the maps of such a crop, pretrained at window 8. The paper has no Mask2Former.
_base_ = [
    '../_base_/models/mask2former_swinv2.py',
    '../_base_/datasets/ade20k_640_mask2former.py',
    '../_base_/schedules/mask2former_160k.py',
    '../_base_/default_runtime_seg.py',
]
model = dict(data_preprocessor=dict(size=(640, 640)), backbone=dict(window_size=20))
