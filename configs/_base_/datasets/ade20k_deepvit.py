# ADE20K for DeepViT, whose testing slides over windows of the training crop: no ratio of multi-scale testing makes an image
# smaller than that.
_base_ = './ade20k.py'
tta_pipeline = [
    _base_.tta_pipeline[0],
    dict(
        type='TestTimeAug',
        transforms=[
            [step for step in _base_.tta_pipeline[1].transforms[0] if min(step.scale) >= 512],
            *_base_.tta_pipeline[1].transforms[1:],
        ],
    ),
]
