# Mask2Former's Cityscapes (github.com/facebookresearch/Mask2Former): the short side one of 0.5, 0.6, ..., 2.0 times 1024,
# the long side at most 4096.
_base_ = './cityscapes.py'
resize = dict(
    type='RandomChoiceResize',
    scales=[int(0.1 * tenths * 1024) for tenths in range(5, 21)],
    resize_type='ResizeShortestEdge',
    max_size=4096,
)
train_pipeline = [resize if step.type == 'RandomResize' else step for step in _base_.train_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
