# A small SwinV2 + UPerNet on the synthetic mini dataset with a fourth channel, their depth, from scratch in minutes on a CPU:
#   python tools/make_mini_dataset.py --depth --out data/mini
# Weights of an RGB image are transferred: --cfg-options model.backbone.init_cfg.type=Pretrained
#   model.backbone.init_cfg.checkpoint=CKPT. No number here is the paper's.
_base_ = './swinv2_upernet_mini.py'
load = dict(type='mmvitscale.LoadMultispectralImage', channels=4, show=(0, 1, 2))
# Here and not in the data preprocessor, which takes 1 or 3 channels. Colour as in pretraining.
normalise = dict(type='mmvitscale.NormalizeChannels', mean=[123.675, 116.28, 103.53, 195.0], std=[58.395, 57.12, 57.375, 35.0])
train_pipeline = [
    load,
    normalise,
    dict(type='LoadAnnotations'),
    dict(type='RandomCrop', crop_size=(128, 128), cat_max_ratio=0.9),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomFlip', prob=0.5, direction='vertical'),
    dict(type='PackSegInputs'),
]
test_pipeline = [load, normalise, dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
model = dict(data_preprocessor=dict(mean=None, std=None, bgr_to_rgb=False), backbone=dict(in_channels=4))
train_dataloader = dict(dataset=dict(img_suffix='.tif', data_prefix=dict(img_path='rgbd/training'), pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(img_suffix='.tif', data_prefix=dict(img_path='rgbd/validation'), pipeline=test_pipeline))
test_dataloader = val_dataloader
