# Boxes of your own in COCO's format, in data/own: train.json, val.json and the folders of images train and val. Give the
# classes, in the order of the file's categories, and their number to the heads (or let tools/new_config.py write it).
_base_ = './coco_detection.py'
data_root = 'data/own/'
metainfo = dict(classes=('object',))
train_dataloader = dict(
    dataset=dict(data_root=data_root, ann_file='train.json', data_prefix=dict(img='train/'), metainfo=metainfo)
)
val_dataloader = dict(dataset=dict(data_root=data_root, ann_file='val.json', data_prefix=dict(img='val/'), metainfo=metainfo))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'val.json')
test_evaluator = val_evaluator
