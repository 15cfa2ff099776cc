# The same with stuffthingmaps for the semantic branch: stuffthingmaps_trainval2017.zip of COCO-Stuff, unpacked into
# data/coco/stuffthingmaps.
_base_ = './coco_instance_htc.py'
train_pipeline = [dict(step, with_seg=True) if step.type == 'LoadAnnotations' else step for step in _base_.train_pipeline]
train_dataloader = dict(dataset=dict(data_prefix=dict(seg='stuffthingmaps/train2017/'), pipeline=train_pipeline))
