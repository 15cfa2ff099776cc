# DeepViT-32b + Mask R-CNN on COCO in the manner of ViTDet (arXiv 2203.16527; mmdetection, projects/ViTDet): windows of 16
# tokens, which divide the map of 1024 x 1024, and a global block at the end of each quarter; two convolutions in the RPN and
# 4conv1fc box heads. Their norm is BatchNorm, synchronised over GPUs, where ViTDet has LayerNorm over channels.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    '../_base_/deepvit.py',
    '../_base_/datasets/coco_instance_lsj_1024.py',
    '../_base_/schedules/coco_100e_vitdet.py',
]
size = _base_.deepvit['deepvit-32b']
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    data_preprocessor=dict(type='mmvitscale.DetPaddingPreprocessor', **_base_.deepvit_preprocessor),
    backbone=dict(
        _delete_=True,
        type='mmvitscale.DeepViT',
        img_size=1024,
        window_size=16,
        global_blocks=size.backbone.out_indices,
        drop_path_rate=0.1,
        **dict(size.backbone, out_indices=None),
    ),
    neck=dict(_delete_=True, type='mmvitscale.SimplePyramid', in_channels=size.channels, out_channels=256, num_outs=5),
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', conv_out_channels=256, norm_cfg=norm_cfg),
        mask_head=dict(norm_cfg=norm_cfg),
    ),
)
train_dataloader = dict(batch_size=4, sampler=dict(type='InfiniteSampler'))
