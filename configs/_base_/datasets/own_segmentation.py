# Images and label images of your own in data/own: images/train, images/val, masks/train and masks/val, a mask named as its
# image, one channel, the number of its class in each pixel, 255 where nothing is known. Give the classes, in the order of
# their numbers, and their number to the heads (or let tools/new_config.py write it).
_base_ = './ade20k.py'
data_root = 'data/own'
classes = ('background', 'object')
dataset = dict(
    _delete_=True,
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=dict(classes=classes),
    img_suffix='.jpg',
    seg_map_suffix='.png',
)
train_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img_path='images/train', seg_map_path='masks/train'), pipeline=_base_.train_pipeline, **dataset
    )
)
val_dataloader = dict(
    dataset=dict(data_prefix=dict(img_path='images/val', seg_map_path='masks/val'), pipeline=_base_.test_pipeline, **dataset)
)
test_dataloader = val_dataloader
