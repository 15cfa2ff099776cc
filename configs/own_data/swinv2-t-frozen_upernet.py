# The same with a frozen backbone: only neck and heads learn. Faster, and safer where images are few.
_base_ = './swinv2-t_upernet.py'
model = dict(backbone=dict(frozen_stages=4, drop_path_rate=0.0))
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=1.0))
