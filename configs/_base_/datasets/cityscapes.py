# Cityscapes, 19 classes: leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip unpacked into data/cityscapes, with the
# label images that cityscapesscripts (csCreateTrainIdLabelImgs) makes. Crops of 512 x 1024 of images scaled by 0.5 to 2.
_base_ = './ade20k.py'
dataset_type = 'CityscapesDataset'
data_root = 'data/cityscapes'
crop_size = (512, 1024)
scale = (2048, 1024)
train_pipeline = [
    dict(step, **dict(RandomResize=dict(scale=scale), RandomCrop=dict(crop_size=crop_size)).get(step.type, {}))
    for step in _base_.train_pipeline
]
test_pipeline = [dict(step, **dict(Resize=dict(scale=scale)).get(step.type, {})) for step in _base_.test_pipeline]
tta_pipeline = [
    _base_.tta_pipeline[0],
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=(int(2048 * r), int(1024 * r)), keep_ratio=True)
             for r in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)],
            *_base_.tta_pipeline[1].transforms[1:],
        ]),
]
dataset = dict(type=dataset_type, data_root=data_root)
train_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'), pipeline=train_pipeline, **dataset))
val_dataloader = dict(
    dataset=dict(data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'), pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
