# mmdet's Cascade R-CNN on SwinV2-T with the box heads of SwinV1's Cascade Mask R-CNN
# (github.com/SwinTransformer/Swin-Transformer-Object-Detection): four convolutions and one fully connected layer with
# BatchNorm, which the runtime synchronises over GPUs, a box for each class, and GIoU of the decoded boxes.
_base_ = ['mmdet::_base_/models/cascade-rcnn_r50_fpn.py', '../swinv2.py']
bbox_head = [
    dict(
        type='ConvFCBBoxHead',
        num_shared_convs=4,
        num_shared_fcs=1,
        in_channels=256,
        conv_out_channels=256,
        fc_out_channels=1024,
        roi_feat_size=7,
        num_classes=80,
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0, 0.0, 0.0, 0.0], target_stds=stds),
        reg_class_agnostic=False,
        reg_decoded_bbox=True,
        norm_cfg=dict(type='BN', requires_grad=True),
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=10.0),
    )
    for stds in ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067])
]
model = dict(
    backbone=dict(_delete_=True, **_base_.swinv2_detector),
    neck=dict(in_channels=_base_.swinv2_channels.t),
    roi_head=dict(bbox_head=bbox_head),
)
