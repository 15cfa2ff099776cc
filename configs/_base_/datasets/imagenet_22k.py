# ImageNet-22K, 192 x 192, a folder for each of its 21841 classes. Judged on the training images of an epoch's loss alone: it
# has no validation set.
_base_ = './imagenet.py'
data_root = 'data/imagenet22k'
train_dataloader = dict(
    dataset=dict(_delete_=True, type='ImageNet21k', data_root=data_root, split='', pipeline=_base_.size.px192.train)
)
val_dataloader = None
val_evaluator = None
test_dataloader = None
test_evaluator = None
