# SwinV2-L + HTC++ with InstaBoost in training, as the paper has it (pip install instaboostfast). It moves objects,
# but not the labels of the semantic branch.
_base_ = './htc_swinv2-l-w32-in22k_fpn_64xb1-lsj1536-3x_coco.py'
load, *steps = _base_.train_pipeline
train_pipeline = [
    load,
    dict(
        type='InstaBoost',
        action_candidate=('normal', 'horizontal', 'skip'),
        action_prob=(1, 0, 0),
        scale=(0.8, 1.2),
        dx=15,
        dy=15,
        theta=(-1, 1),
        color_prob=0.5,
        hflag=False,
        aug_ratio=0.5,
    ),
    *steps,
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
del load, steps
