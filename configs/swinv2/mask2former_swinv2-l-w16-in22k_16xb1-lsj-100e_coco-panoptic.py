# SwinV2-L + Mask2Former on COCO, panoptic segmentation: Mask2Former's recipe for Swin-L, 200 queries and 100 epochs.
_base_ = './mask2former_swinv2-t-w16-in1k_8xb2-lsj-50e_coco-panoptic.py'
iters = 737500
model = dict(backbone=_base_.swinv2.l_in22k, panoptic_head=dict(num_queries=200, in_channels=_base_.swinv2_channels.l))
param_scheduler = dict(end=iters, milestones=[655556, 710184])
train_cfg = dict(max_iters=iters, dynamic_intervals=[(iters // 5000 * 5000 + 1, iters)])
train_dataloader = dict(batch_size=1)
