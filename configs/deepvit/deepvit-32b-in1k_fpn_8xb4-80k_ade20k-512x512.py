# DeepViT-32b + Semantic FPN on ADE20K at 512 x 512. The paper has no dense task: the recipe is that of vision transformers
# with Semantic FPN, with layer decay for so deep a ViT.
_base_ = [
    '../_base_/models/fpn_deepvit.py',
    '../_base_/datasets/ade20k_deepvit.py',
    '../_base_/schedules/ade20k_80k_fpn.py',
    '../_base_/default_runtime_seg.py',
]
train_dataloader = dict(batch_size=4)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=_base_.size.layer_decay))
