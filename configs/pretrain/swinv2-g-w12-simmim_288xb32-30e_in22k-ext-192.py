# SwinV2-G on labelled images after SimMIM, 192 x 192, window 12 (stage 4: 6). The 70 million images are not public: put
# yours into data/imagenet22k_ext, a folder for each class.
_base_ = [
    '../_base_/models/classifier_swinv2.py',
    '../_base_/datasets/imagenet_22k.py',
    '../_base_/default_runtime_pretrain.py',
    '../_base_/schedules/imagenet22k_30e_giant.py',
]
model = dict(
    data_preprocessor=dict(num_classes=21841),
    backbone=dict(
        arch='giant',
        window_size=[12, 12, 12, 6],
        pretrained_window_sizes=[12, 12, 12, 6],
        drop_path_rate=0.3,
        with_cp=True,
        attention=['sequential', 'sequential', 'auto', 'auto'],
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/swinv2_giant_simmim_window12_192.pth'),
    ),
    head=dict(in_channels=4096, num_classes=21841),
)
train_dataloader = dict(batch_size=32, dataset=dict(data_root='data/imagenet22k_ext'))
