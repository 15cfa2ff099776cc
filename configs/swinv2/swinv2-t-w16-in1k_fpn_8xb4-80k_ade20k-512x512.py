# SwinV2-T + Semantic FPN on ADE20K at 512 x 512, window 16, pretrained at window 8. The paper has no Semantic FPN: the
# recipe is that of vision transformers with it.
_base_ = [
    '../_base_/models/fpn_swinv2.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/ade20k_80k_fpn.py',
    '../_base_/default_runtime_seg.py',
]
train_dataloader = dict(batch_size=4)
