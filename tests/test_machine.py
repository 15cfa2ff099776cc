import pytest
from mmengine.config import Config

from mmvitscale import machine


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_a_config_for_many_gpus_fits_the_machine(device, monkeypatch):
    monkeypatch.setattr(machine, 'get_device', lambda: device)
    cfg = Config(dict(train_dataloader=dict(num_workers=999), sync_bn='torch'))
    machine.adapt_to_machine(cfg)
    assert ('sync_bn' in cfg) == (device == 'cuda')
    assert cfg.train_dataloader.num_workers < 999
    assert cfg.runner_type == 'mmvitscale.Runner'


@pytest.mark.parametrize('device, wrapper', [('cpu', 'mmvitscale.CPUAmpOptimWrapper'), ('cuda', 'AmpOptimWrapper')])
def test_mixed_precision_follows_the_device(device, wrapper, monkeypatch):
    monkeypatch.setattr(machine, 'get_device', lambda: device)
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper')))
    machine.use_mixed_precision(cfg)
    assert cfg.optim_wrapper.type == wrapper
