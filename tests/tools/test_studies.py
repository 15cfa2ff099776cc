"""The drivers of the comparisons, with trainings and tests that only pretend."""

import json

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import TRANSFORMS, init_default_scope

from mmvitscale.config.loading import load_config
from mmvitscale.config.runtime import check_packages
from mmvitscale.config.view import ConfigView
from mmvitscale.engine import experiments

pytestmark = pytest.mark.integration


@pytest.fixture
def pretended(monkeypatch):
    """Trainings whose pipeline is run once, and that leave a folder; what is tested gets a number that encodes the
    position bias, window and seed."""
    trained, tested = [], []

    def in_process(function, config, work_dir, options, resume):
        cfg = load_config(config, dict(options))
        cfg = Config.fromstring(cfg.pretty_text, '.py')  # as it is written beside the checkpoints
        check_packages(cfg)
        init_default_scope(ConfigView(cfg).scope)
        sample = dict(
            img=np.zeros((96, 96, 3), np.uint8),
            gt_seg_map=np.zeros((96, 96), np.uint8),
            img_shape=(96, 96),
            ori_shape=(96, 96),
            seg_fields=['gt_seg_map'],
        )
        for step in cfg.train_dataloader.dataset.pipeline:
            if not step.type.startswith('Load'):
                sample = TRANSFORMS.build(step)(sample)
        trained.append((config, work_dir, options))
        (work_dir / 'last_checkpoint').write_text(str(work_dir / 'iter.pth'))
        return 0

    def evaluate(cfg, checkpoint, work_dir):
        tested.append((cfg, checkpoint))
        return dict(mIoU=float(len(tested)))

    monkeypatch.setattr(experiments, '_in_process', in_process)
    monkeypatch.setattr(experiments, 'evaluate', evaluate)
    return trained, tested


@pytest.mark.slow
def test_the_position_bias_study_runs_every_combination_once(run_here, pretended, tmp_path):
    trained, tested = pretended
    command = ['tools/analysis/position_bias_study.py', '--out', tmp_path / 'out', '--seeds', 0, 1, '--factors', 1, 2]
    code, out, err = run_here(*command)
    assert not code, out + err
    assert len(trained) == 2 * 3 * 2 and len(tested) == 2 * 3 * 3
    for cfg, checkpoint in tested:
        side = cfg.test_dataloader.dataset.pipeline[1].scale[0]
        assert cfg.model.backbone.window_size == ([6, 6, 6, 3] if side == 96 else [12, 12, 12, 6])
        assert cfg.model.backbone.position_bias in str(checkpoint)
    tuned = [options for _, work_dir, options in trained if work_dir.name == 'tuned_2x']
    assert len(tuned) == 6
    assert all(
        options['load_from'].endswith('trained/iter.pth')
        and options['model.backbone.window_size'] == [12, 12, 12, 6]
        and options['train_dataloader.dataset.pipeline.3.crop_size'] == (192, 192)
        for options in tuned
    )
    results = json.loads((tmp_path / 'out/results.json').read_text())
    assert results['table'] == [
        {'plain': {'1.0': 1.0, '2.0': 2.0}, 'tuned': {'2.0': 3.0}},
        {'plain': {'1.0': 10.0, '2.0': 11.0}, 'tuned': {'2.0': 12.0}},
    ]
    assert 'log_cpb' in out and '11.50 +- 6.36' in out  # of 7 and 16
    run_here(*command)
    assert len(tested) == 18  # known from the first call
    code, _, err = run_here(*command, '--iters', 100)
    assert code == 1 and 'was 800 and is 100' in err and 'give another --out' in err


def test_the_pretraining_study_differs_from_scratch_only_in_weights(run_here, pretended, tmp_path, monkeypatch):
    from mmvitscale import inference

    trained, tested = pretended
    monkeypatch.setattr(inference, 'Reconstructor', lambda cfg, checkpoint: lambda path: (np.zeros((4, 12, 3), np.uint8), 0.5))
    scalars = tmp_path / 'out/pretrained/run/vis_data/scalars.json'
    scalars.parent.mkdir(parents=True)
    scalars.write_text('\n'.join(json.dumps(dict(step=i, loss=loss)) for i, loss in enumerate((0.8, 0.6, 0.4))))
    code, out, err = run_here(
        'tools/pretraining_chain.py', '--out', tmp_path / 'out', '--seeds', 0, 1, '--scenes', 3, '--labelled', 2
    )
    assert not code, out + err
    assert 'loss 0.8000 -> 0.4000, 0.50 of the first' in out
    assert 'mIoU over 2 seeds: 2.00 +- 1.41 after pretraining, 3.00 +- 1.41 from scratch' in out
    starts = [options.get('model.backbone.init_cfg.checkpoint') for _, _, options in trained[1:]]
    assert [start is not None for start in starts] == [True, False, True, False]
    assert {options['randomness.seed'] for _, _, options in trained[1:3]} == {0}
    same = [{key: value for key, value in options.items() if 'init_cfg' not in key} for _, _, options in trained[1:3]]
    assert same[0] == same[1]  # nothing else differs
    assert (tmp_path / 'out/reconstructions.png').is_file()
    command = ['tools/pretraining_chain.py', '--out', tmp_path / 'out', '--seeds', 0, '--scenes', 3]
    code, _, err = run_here(*command, '--labelled', 3)
    assert code == 1 and 'labelled holds scenes with train 2, not 3; give another --out' in err
    code, _, err = run_here(*command, '--labelled', 2, '--tune-iters', 40)
    assert code == 1 and 'was 400 and is 40' in err


def test_invalid_study_options_are_refused(error_of, tmp_path):
    assert '--factors [0.5]' in error_of('tools/analysis/position_bias_study.py', '--out', tmp_path, '--factors', 0.5)
    assert '--tune-iters 1 found' in error_of('tools/pretraining_chain.py', '--out', tmp_path, '--tune-iters', 1)


def test_token_transfer_keeps_data_sets_whose_folders_have_one_name_apart(run_here, pretended, tmp_path):
    code, out, err = run_here(
        'tools/analysis/token_transfer.py',
        'deepvit_upernet_mini',
        'a.pth',
        '--data-roots',
        tmp_path / 'small/scenes',
        tmp_path / 'large/scenes',
        tmp_path / 'small/scenes',
        '--statistics',
        'running',
        '--out',
        tmp_path / 'out',
    )
    assert code == 0, err
    found = json.loads((tmp_path / 'out/token_transfer.json').read_text())['results']
    assert found['slid'] == {'small/scenes': [1.0], 'large/scenes': [2.0]}
    assert found['running'] == {'small/scenes': [3.0], 'large/scenes': [4.0]}
