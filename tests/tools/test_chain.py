"""A chain of commands as a user types them: weights of window 8, windows grown to 16, an interruption, a test."""

import re

import pytest
import torch

from mmvitscale.config.loading import load_config, load_test_config
from mmvitscale.datasets import mini
from mmvitscale.inference import Predictor
from mmvitscale.models import SwinTransformerV2
from tests.helpers.commands import FOREGROUND, ROOT
from tests.helpers.official_layout import official_state_dict
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.integration

CONFIG = """
_base_ = {base!r}
model = dict(backbone=dict(window_size=8, init_cfg=dict(type='Pretrained', checkpoint={weights!r})))
custom_hooks = [
    dict(type='mmvitscale.LogCPBTransferHook'),
    dict(type='mmvitscale.ProgressiveWindowHook', schedule=[dict(begin=0, window_size=8), dict(begin=1, window_size=16)]),
    {ema}
]
"""


@pytest.fixture
def run(run_here):
    """Runs a tool that succeeds, and returns what it printed."""

    def run(*command):
        code, out, err = run_here(*command)
        assert not code, out + err
        return out + err

    return run


def metrics(output):
    return re.findall(r'aAcc: ([\d.]+)  mIoU: ([\d.]+)  mAcc: ([\d.]+)', output)[-1]


@pytest.mark.parametrize('averages', [pytest.param(False, marks=pytest.mark.slow), True], ids=['plain', 'ema'])
def test_grown_windows_persist_through_resume_test_and_predict(averages, run, tmp_path):
    scenes = mini.write_dataset(tmp_path / 'mini', train=4, val=2, size=64)
    base = str(ROOT / 'configs/mini/swinv2_upernet_mini.py')
    arch = {key: value for key, value in load_config(base).model.backbone.arch.items() if key != '_delete_'}
    source = randomise(SwinTransformerV2(arch, 8))
    torch.save(dict(model=official_state_dict(source, (8,) * 4, (8,) * 4)), tmp_path / 'w8.pth')
    config, work_dir = tmp_path / 'chain.py', tmp_path / 'work'
    ema = "dict(type='EMAHook')" if averages else ''
    config.write_text(CONFIG.format(base=base, weights=str(tmp_path / 'w8.pth'), ema=ema))
    options = [
        f'data_root={scenes}/ADEChallengeData2016',
        'train_dataloader.batch_size=2',
        *FOREGROUND,
        'model.data_preprocessor.size=(64,64)',
        'train_dataloader.dataset.pipeline.2.crop_size=(64,64)',
        'default_hooks.checkpoint.interval=1',
        'default_hooks.logger.interval=1',
    ]

    def train(iterations, *arguments):
        return run(
            'tools/train.py',
            config,
            '--work-dir',
            work_dir,
            *arguments,
            '--cfg-options',
            *options,
            f'train_cfg.max_iters={iterations}',
            f'train_cfg.val_interval={iterations}',
        )

    assert 'window_size 16' in train(2)
    resumed = train(3, '--resume')
    assert 'resumed epoch: 0, iter: 2' in resumed and 'Iteration 2: window_size 16' in resumed
    validated = metrics(resumed)

    # No window in the command: those that the weights last ran with.
    checkpoint = work_dir / 'iter_3.pth'
    tested = run('tools/test.py', config, checkpoint, '--work-dir', tmp_path / 'test', '--cfg-options', *options)
    assert 'windows of 16x16 tokens that the weights last ran with are used, not the 8x8 of the config' in tested
    assert metrics(tested) == validated

    # A window in the command wins, and it is said.
    tested = run(
        'tools/test.py',
        config,
        checkpoint,
        '--work-dir',
        tmp_path / 'test',
        '--cfg-options',
        *options,
        'model.backbone.window_size=8',
    )
    assert 'last ran with windows of 16x16 tokens, here they run with 8x8' in tested and 'not the 8x8' not in tested

    # Predicting takes the same windows, and they matter.
    image = torch.rand(1, 3, 64, 64)
    outs = []
    for given in ({}, {'model.backbone.window_size': 8}):
        model = Predictor(load_test_config(str(config), given), str(checkpoint)).model
        assert {stage.window for stage in model.backbone.stages} == {(8, 8) if given else (16, 16)}
        assert [stage.pretrained_window for stage in model.backbone.stages] == [(8, 8)] * 4
        with torch.no_grad():
            outs.append(model.backbone(image)[0])
    assert not torch.allclose(*outs, atol=1e-3)
