# Mask2Former's ADE20K (github.com/facebookresearch/Mask2Former, Swin-B and -L): the short side one of 0.5, 0.6, ..., 2.0
# times 640, the long side at most 2560; multi-scale testing from 0.5 to 1.75 times 640.
_base_ = './ade20k_640.py'
resize = dict(
    type='RandomChoiceResize',
    scales=[int(0.1 * tenths * 640) for tenths in range(5, 21)],
    resize_type='ResizeShortestEdge',
    max_size=2560,
)
train_pipeline = [resize if step.type == 'RandomResize' else step for step in _base_.train_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
