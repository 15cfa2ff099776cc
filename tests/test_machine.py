import torch
from mmengine.config import Config

from mmvitscale.machine import adapt_to_machine, use_mixed_precision


def test_a_config_for_many_gpus_fits_a_cpu():
    cfg = Config(dict(train_dataloader=dict(num_workers=999), sync_bn='torch'))
    adapt_to_machine(cfg)
    assert 'sync_bn' not in cfg or torch.cuda.is_available()
    assert cfg.train_dataloader.num_workers < 999
    assert cfg.runner_type == 'mmvitscale.Runner'


def test_mixed_precision_follows_the_device():
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper')))
    use_mixed_precision(cfg)
    expected = 'AmpOptimWrapper' if torch.cuda.is_available() else 'mmvitscale.CPUAmpOptimWrapper'
    assert cfg.optim_wrapper.type == expected
