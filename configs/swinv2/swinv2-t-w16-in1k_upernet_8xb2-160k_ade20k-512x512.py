# SwinV2-T + UPerNet on ADE20K at 512 x 512, window 16, pretrained at window 8 on 256 x 256
# (SwinV2, Table 1: 47.0 mIoU without multi-scale testing).
_base_ = [
    '../_base_/models/upernet_swinv2.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/ade20k_160k.py',
    '../_base_/default_runtime_seg.py',
]
