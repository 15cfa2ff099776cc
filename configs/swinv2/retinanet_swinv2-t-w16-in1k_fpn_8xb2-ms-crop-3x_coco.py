# SwinV2-T + RetinaNet on COCO boxes, window 16, pretrained at window 8, 3x schedule. The paper has no RetinaNet: the
# recipe is that of its Cascade Mask R-CNN, with the gradient clipping that a one-stage head wants.
_base_ = [
    '../_base_/models/retinanet_swinv2.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/coco_3x.py',
    '../_base_/default_runtime_det.py',
]
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
