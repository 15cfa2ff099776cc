# DeepViT-32b + Mask R-CNN on COCO, trained at 1024 x 1024, every block attending to all of an image. The paper has no dense
# task: no number here is its own. With local windows and four global blocks, and ViTDet's recipe:
#   mask-rcnn_deepvit-32b-w16-in1k_simple-pyramid_16xb4-lsj-100e_coco.py
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    '../_base_/deepvit.py',
    '../_base_/datasets/coco_instance_lsj_1024.py',
    '../_base_/schedules/coco_3x_vit.py',
    '../_base_/default_runtime_det.py',
]
size = _base_.deepvit['deepvit-32b']
model = dict(
    data_preprocessor=dict(type='mmvitscale.DetPaddingPreprocessor', **_base_.deepvit_preprocessor),
    backbone=dict(
        _delete_=True,
        type='mmvitscale.DeepViT',
        img_size=1024,
        with_cp=True,
        drop_path_rate=0.2,
        **dict(size.backbone, out_indices=None),
    ),
    neck=dict(_delete_=True, type='mmvitscale.SimplePyramid', in_channels=size.channels, out_channels=256, num_outs=5),
)
