# SimMIM of SwinV2-G, 192 x 192, window 12 (stage 4: 6). The 70 million images are not public: put yours into
# data/imagenet22k_ext.
_base_ = [
    '../_base_/models/simmim_swinv2.py',
    '../_base_/datasets/imagenet_simmim.py',
    '../_base_/default_runtime_pretrain.py',
    '../_base_/schedules/simmim_20e_giant.py',
]
model = dict(
    backbone=dict(arch='giant', drop_path_rate=0.0, with_cp=True, attention=['sequential', 'sequential', 'auto', 'auto']),
    neck=dict(in_channels=4096),
)
train_dataloader = dict(
    batch_size=32,
    dataset=dict(
        _delete_=True, type='CustomDataset', data_root='data/imagenet22k_ext', with_label=False, pipeline=_base_.train_pipeline
    ),
)
