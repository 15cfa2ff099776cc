"""Each strategy in a group of this process alone: the quick form of what test_strategies.py does with two processes."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule

from mmvitscale.checkpoints.loading import unwrapped
from mmvitscale.datasets import mini
from tests.engine.strategies.two_processes import steady, train
from tests.helpers.commands import free_port

pytestmark = pytest.mark.integration


@pytest.fixture
def alone(monkeypatch):
    settings = dict(RANK=0, LOCAL_RANK=0, WORLD_SIZE=1, LOCAL_WORLD_SIZE=1, MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port())
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return mini.write_dataset(tmp_path_factory.mktemp('data') / 'mini', train=4, val=1, size=64) / 'ADEChallengeData2016'


@pytest.mark.parametrize('strategy', ['zero1', 'fsdp', pytest.param('deepspeed_zero1', marks=pytest.mark.slow)])
def test_a_sharded_training_in_one_process_equals_an_unsharded_one(strategy, data, alone, tmp_path):
    """Losses and checkpoints, and it goes on from the checkpoint of the other."""
    name = tmp_path.name  # MMEngine has one runner of each name in a process
    _, expected = train(steady(data, tmp_path / f'{name}-plain'), 'ddp')
    cfg = steady(data, tmp_path / f'{name}-sharded', iters=2)
    runner, losses = train(cfg, strategy)
    assert losses == pytest.approx(expected[:2], abs=1e-4)
    blocks = unwrapped(runner.model).backbone.transformer_blocks()
    assert all(isinstance(block, FSDPModule) for block in blocks) == (strategy == 'fsdp')
    ours, theirs = (torch.load(tmp_path / f'{name}-{way}/iter_2.pth', weights_only=False) for way in ('sharded', 'plain'))
    assert ours['state_dict'].keys() == theirs['state_dict'].keys()
    for key, value in theirs['state_dict'].items():
        assert torch.allclose(ours['state_dict'][key], value, atol=1e-5), key
    plain = tmp_path / f'{name}-plain/iter_2.pth'
    resumed = steady(data, tmp_path / f'{name}-resumed', load_from=str(plain), resume=True)
    assert train(resumed, strategy)[1] == pytest.approx(expected[2:], abs=1e-4)
