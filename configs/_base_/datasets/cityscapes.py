# Cityscapes, 19 classes: leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip unpacked into data/cityscapes, with the
# label images that cityscapesscripts (csCreateTrainIdLabelImgs) makes. Crops of 512 x 1024 of images scaled by 0.5 to 2.
_base_ = './ade20k.py'
dataset_type = 'CityscapesDataset'
data_root = 'data/cityscapes'
crop_size = (512, 1024)
scale = dict(scale=(2048, 1024))
changes = dict(RandomResize=scale, Resize=scale, RandomCrop=dict(crop_size=crop_size))
train_pipeline = [dict(step, **changes.get(step.type, {})) for step in _base_.train_pipeline]
test_pipeline = [dict(step, **changes.get(step.type, {})) for step in _base_.test_pipeline]
resizes, *steps = _base_.tta_pipeline[1].transforms
resizes = [dict(step, scale=(step.scale[0], 2 * step.scale[1])) for step in resizes]
tta_pipeline = [_base_.tta_pipeline[0], dict(type='TestTimeAug', transforms=[resizes, *steps])]
dataset = dict(type=dataset_type, data_root=data_root)
train_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'), pipeline=train_pipeline, **dataset
    )
)
val_dataloader = dict(
    dataset=dict(data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'), pipeline=test_pipeline, **dataset)
)
test_dataloader = val_dataloader
del scale, changes, resizes, steps
