# SwinV2-G + HTC++, the paper's recipe (SwinV2, Table 3: 61.7 box and 53.3 mask AP on minival; with window 48 in testing and
# multi-scale testing 62.5 and 53.7, on test-dev 63.1 and 54.4). The paper trains the model without masks on Objects365 v2
# first: give that with load_from. Tested with window 48: htc_swinv2-g-w48-in22k-ext_fpn_test_coco.py
_base_ = [
    '../_base_/models/htc_semantic_swinv2.py',
    '../_base_/datasets/coco_stuff_htc.py',
    '../_base_/schedules/coco_45k_giant.py',
]
model = dict(
    backbone=_base_.swinv2.g_in22k_ext,
    neck=[
        dict(_base_.model.neck[0], in_channels=4096, num_heads=128),
        dict(_base_.model.neck[1], in_channels=_base_.swinv2_channels.g),
    ],
)
train_dataloader = dict(sampler=dict(type='InfiniteSampler'))
