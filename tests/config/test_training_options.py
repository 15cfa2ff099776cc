"""What options of a training add to a config, as a command and as lines of a file."""

import importlib.util

import pytest
from mmengine.config import Config

from mmvitscale.autoconfig.inspect_dataset import inspect_dataset
from mmvitscale.autoconfig.write_config import write_config
from mmvitscale.config.loading import load_config, load_test_config
from mmvitscale.config.names import list_configs
from mmvitscale.config.training_options import (
    add_training_options,
    average_weights,
    less_is_better,
    main_metric,
    set_batch_size,
    stop_early,
    track_with,
    training_option_lines,
)
from mmvitscale.config.view import ConfigView
from mmvitscale.datasets import mini
from mmvitscale.errors import InputError
from mmvitscale.utils.choices import TRACKERS

pytestmark = pytest.mark.integration


@pytest.fixture
def everything_installed(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *args: find(name, *args) or True)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return mini.write_dataset(tmp_path_factory.mktemp('data') / 'mini', train=16, val=2, size=64)


def kinds(cfg):
    return [backend.type for backend in cfg.visualizer.vis_backends]


def test_trackers_join_the_backends_that_are_there_once(everything_installed):
    cfg = load_config('swinv2_upernet_mini')
    track_with(cfg, ['mlflow', 'wandb', 'mlflow'])
    track_with(cfg, ['mlflow'])
    assert kinds(cfg) == ['LocalVisBackend', 'mmvitscale.MLflowVisBackend', 'mmvitscale.WandbVisBackend']
    assert cfg.visualizer.type == 'SegLocalVisualizer'
    cfg.visualizer.vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    track_with(cfg, ['tensorboard'])
    assert kinds(cfg) == ['LocalVisBackend', 'TensorboardVisBackend']


@pytest.mark.parametrize('visualizer', [None, dict(type='Visualizer'), dict(type='Visualizer', vis_backends=[])])
def test_a_config_without_backends_keeps_the_local_logs(visualizer, everything_installed):
    cfg = Config(dict(visualizer=visualizer))
    track_with(cfg, ['aim'])
    assert kinds(cfg) == ['LocalVisBackend', 'mmvitscale.AimVisBackend']


@pytest.mark.parametrize('name', TRACKERS)
def test_a_tracker_that_is_not_installed_is_named_with_what_to_install(name, monkeypatch):
    cfg = load_config('swinv2_upernet_mini')
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *args: None)
    with pytest.raises(InputError, match=f'needs the package {TRACKERS[name][1]}; get it with: pip install'):
        track_with(cfg, [name])


def test_a_test_is_not_tracked(everything_installed, tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text("_base_ = 'mmvitscale::swinv2_upernet_mini'\n" + '\n'.join(training_option_lines(['wandb', 'aim'])))
    assert len(kinds(load_config(str(path)))) == 3
    assert kinds(load_test_config(str(path))) == ['LocalVisBackend']


def test_an_average_that_is_there_stays():
    cfg = load_config('swinv2_upernet_mini')
    average_weights(cfg)
    average_weights(cfg)
    assert len(ConfigView(cfg).hooks('EMAHook')) == 1 and cfg.custom_hooks[0].type == 'mmvitscale.LogCPBTransferHook'
    cfg = Config(dict(custom_hooks=[dict(type='EMAHook', momentum=0.5)]))
    average_weights(cfg)
    assert cfg.custom_hooks == [dict(type='EMAHook', momentum=0.5)]


def test_early_stopping_takes_the_number_that_is_given():
    cfg = load_config('swinv2_upernet_mini')
    stop_early(cfg, 3)
    stop_early(cfg, 5)
    assert [hook.patience for hook in ConfigView(cfg).hooks('EarlyStoppingHook')] == [5]
    with pytest.raises(InputError, match='--early-stop 0 found'):
        stop_early(cfg, 0)
    with pytest.raises(InputError, match='has no validation to stop by'):
        stop_early(load_config('swinv2_simmim_mini_96_w6'), 3)


def test_the_batch_size_changes_nothing_else():
    cfg, before = load_config('swinv2_upernet_mini'), load_config('swinv2_upernet_mini')
    set_batch_size(cfg, 5)
    assert cfg.train_dataloader.pop('batch_size') == 5
    before.train_dataloader.pop('batch_size')
    assert cfg.to_dict() == before.to_dict()


@pytest.mark.parametrize(
    'task, folder', [('segmentation', 'ADEChallengeData2016'), ('detection', 'coco'), ('instance', 'coco')]
)
@pytest.mark.parametrize(
    'options',
    [
        dict(track=['mlflow', 'tensorboard'], ema=True, early_stop=4, batch_size=3),
        dict(track=['wandb']),
        dict(ema=True),
        dict(early_stop=2),
        dict(batch_size='auto'),
        {},
    ],
    ids=str,
)
@pytest.mark.parametrize('memory', [None, 24])
def test_the_lines_of_a_config_do_what_the_options_do(task, folder, options, memory, scenes, tmp_path, everything_installed):
    path = tmp_path / 'mine.py'
    write_config(inspect_dataset(str(scenes / folder), task), path, memory)
    as_options = load_config(str(path))
    add_training_options(as_options, **options)
    path.write_text('\n'.join([path.read_text().rstrip(), *training_option_lines(**options), '']))
    as_lines = load_config(str(path))
    assert as_lines.to_dict() == as_options.to_dict()


def test_every_recipe_with_a_validation_keeps_its_best_checkpoint():
    for name in list_configs():
        cfg = load_config(name)
        if cfg.get('val_evaluator'):
            assert cfg.default_hooks.checkpoint.get('save_best'), name


def test_tasks_are_judged_by_their_main_metric():
    assert main_metric(['aAcc', 'mIoU', 'mAcc']) == 'mIoU'
    assert main_metric(['coco/bbox_mAP', 'coco/bbox_mAP_50', 'coco/segm_mAP']) == 'coco/segm_mAP'
    assert main_metric(['coco/bbox_mAP', 'coco/bbox_mAP_50']) == 'coco/bbox_mAP'
    assert main_metric(['accuracy/top5', 'accuracy/top1']) == 'accuracy/top1'
    assert main_metric(['pascal_voc/mAP', 'x']) == 'pascal_voc/mAP'
    assert [less_is_better(name) for name in ('val_loss', 'depth/rmse', 'coco/bbox_mAP', 'confidence', 'accuracy/top1')] == [
        True,
        True,
        False,
        False,
        False,
    ]
