# SwinV2-T + Mask R-CNN on boxes and masks of your own, from public weights, with layer-wise learning rates.
_base_ = ['../_base_/models/mask_rcnn_swinv2.py', '../_base_/datasets/own_instance.py', '../_base_/schedules/own_detection.py']
model = dict(roi_head=dict(bbox_head=dict(num_classes=1), mask_head=dict(num_classes=1)))
train_dataloader = dict(batch_size=16, sampler=dict(type='InfiniteSampler'))
