_base_ = './default_runtime_pretrain.py'
default_hooks = dict(logger=dict(interval=50, log_metric_by_epoch=False), checkpoint=dict(by_epoch=False, interval=1000))
