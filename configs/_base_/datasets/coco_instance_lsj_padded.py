# The same, tested on images padded to 1024 x 1024, too (ViTDet; mmdetection, projects/ViTDet). Re-attention's BatchNorm
# learns the statistics of maps with one number of tokens, so training and testing must agree on it.
_base_ = './coco_instance_lsj.py'
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=_base_.image_size, keep_ratio=True),
    dict(type='Pad', size=_base_.image_size, pad_val=dict(img=(114, 114, 114))),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
tta_pipeline = None  # other sizes would have other numbers of tokens
tta_model = None
