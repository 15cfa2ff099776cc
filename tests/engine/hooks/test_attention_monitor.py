import json

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmvitscale.engine.hooks import AttentionMonitorHook
from mmvitscale.errors import InputError
from tests.helpers import toy

pytestmark = pytest.mark.unit

SWIN = dict(type='mmvitscale.SwinTransformerV2', arch=dict(embed_dims=8, depths=(2, 1), num_heads=(1, 1)), window_size=8)
VIT = dict(type='mmvitscale.DeepViT', arch=dict(embed_dims=8, depth=3, re_attention=1, num_heads=2), img_size=32)


def scalars(work_dir):
    (path,) = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize('backbone, blocks, similar', [(SWIN, 3, 1), (VIT, 3, 2)])
def test_the_monitor_logs_every_n_iterations_without_changing_training(backbone, blocks, similar, tmp_path):
    backbone = dict(backbone, drop_path_rate=0.5)
    runners = []
    for name, hooks in (('with', [dict(type='mmvitscale.AttentionMonitorHook', interval=2, threshold=-1)]), ('without', [])):
        torch.manual_seed(0)
        runners.append(toy.train(tmp_path / name, backbone, hooks, max_iters=5, randomness=dict(seed=0)))
    for (key, one), other in zip(runners[0].model.state_dict().items(), runners[1].model.state_dict().values()):
        assert torch.equal(one, other), key
    records = [record for record in scalars(tmp_path / 'with') if 'amplitude/last' in record]
    assert [record['step'] for record in records] == [2, 4]
    for record in records:
        assert sum(key.startswith('amplitude/layer_') for key in record) == blocks
        assert record['amplitude/largest'] == max(v for k, v in record.items() if k.startswith('amplitude/layer_'))
        assert record['attention/collapsed_blocks'] == similar and -1 <= record['attention/similarity'] <= 1
    assert not [record for record in scalars(tmp_path / 'without') if 'amplitude/last' in record]


def test_training_mode_comes_back_and_frozen_parts_stay_frozen():
    """Loops over epochs set the mode at the start of each only."""
    backbone = MODELS.build(dict(SWIN, frozen_stages=1)).train()
    modes = [module.training for module in backbone.modules()]
    AttentionMonitorHook()._measure(backbone, (torch.randn(1, 3, 32, 32),))
    assert [module.training for module in backbone.modules()] == modes and True in modes and False in modes


def test_zero_intervals_and_models_without_our_backbone_are_refused(tmp_path):
    with pytest.raises(InputError, match='interval=0'):
        AttentionMonitorHook(0)
    with pytest.raises(InputError, match='found no backbone of mmvitscale'):
        AttentionMonitorHook().before_train(type('Runner', (), dict(model=nn.Linear(1, 1))))
