"""Fault tolerance of the tools, from the command line."""

import os
import pickle
import re

import mmengine
import pytest
import torch
from mmengine.registry import MODELS, RUNNERS, init_default_scope

from mmvitscale.checkpoints.io import read_checkpoint, reading_data_only
from mmvitscale.config import runtime
from mmvitscale.config.loading import load_config
from mmvitscale.config.validation import check_parts
from mmvitscale.datasets.checks import check_datasets
from mmvitscale.datasets.mini import write_dataset
from mmvitscale.utils import cpu
from mmvitscale.utils.error_translation import explain
from tests.helpers.commands import FOREGROUND
from tests.helpers.hostile import Attack

pytestmark = pytest.mark.integration

SEG = 'swinv2_upernet_mini'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    write_dataset(root / 'data', 4, 1, size=64)
    return root / 'data/ADEChallengeData2016'


def train(data, work_dir, *more):
    return [
        'tools/train.py',
        SEG,
        '--work-dir',
        work_dir,
        '--cfg-options',
        f'data_root={data}',
        'train_dataloader.batch_size=2',
        'train_cfg.max_iters=3',
        *FOREGROUND,
        *more,
    ]


def test_replaying_a_diverged_batch_names_the_layer_of_the_error(data, tmp_path, run_here):
    """From the sentence to the layer, in the precision of the training and in a higher one."""
    code, out, err = run_here(
        *train(
            data,
            tmp_path,
            'model.backbone.arch.embed_dims=32',
            'optim_wrapper.optimizer.lr=1e30',
            "param_scheduler=[{'type':'ConstantLR','factor':1.0,'by_epoch':False}]",
            'optim_wrapper.clip_grad=None',
        )
    )
    assert code == 1, out + err
    logged = re.search(r'error: the loss is \S+ at iteration (\d).*images .*scene_.*came out of (\S+) .*are in (\S+\.pth)', err)
    assert logged, err
    kept = read_checkpoint(logged[3])
    assert all(
        bool(torch.isfinite(value).all())
        for key, value in kept['state_dict'].items()
        if value.is_floating_point() and 'running' in key
    )
    code, out, err = run_here('tools/analysis/replay.py', SEG, logged[3])
    assert code == 0, out + err
    assert f'in float32: the first NaN or Inf came out of {logged[2]}' in out
    assert f'iteration {logged[1]}' in out and 'decode.loss_ce' in out and 'largest output' in out
    code, out, err = run_here('tools/analysis/replay.py', SEG, logged[3], '--precision', 'float64', '--all')
    assert code == 0 and 'in float64:' in out, out + err


def test_a_batch_of_one_trains_with_what_is_advised(data, tmp_path, run_here):
    code, _, err = run_here(*train(data, tmp_path / 'a', 'train_dataloader.batch_size=1'))
    assert code == 1
    advised = re.search(r'--cfg-options (model\.\S+(?: model\.\S+)*)', err)[1].split()
    assert len(advised) == 4
    code, out, err = run_here(*train(data, tmp_path / 'b', 'train_dataloader.batch_size=1', *advised))
    assert code == 0, out + err


def test_configs_with_classes_in_place_of_type_names_train(data, tmp_path):
    """As configs in pure Python have them, from the checks to a training."""
    from mmengine.hooks import CheckpointHook, EMAHook
    from mmengine.optim import AmpOptimWrapper
    from mmengine.runner import IterBasedTrainLoop
    from mmseg.datasets import BaseSegDataset
    from mmseg.models import EncoderDecoder

    from mmvitscale.engine.hooks import CheckpointHook as Ours

    cfg = load_config(SEG, dict(data_root=str(data), **{'train_dataloader.batch_size': 2}))
    cfg.model.type = EncoderDecoder
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.type = BaseSegDataset
        loader.num_workers, loader.persistent_workers = 0, False
    cfg.optim_wrapper.type = AmpOptimWrapper
    cfg.train_cfg = dict(type=IterBasedTrainLoop, max_iters=2, val_interval=2)
    cfg.custom_hooks = [dict(type=EMAHook)]
    cfg.default_hooks.checkpoint = dict(type=CheckpointHook, by_epoch=False, interval=1)
    cfg.work_dir = str(tmp_path)
    check_parts(cfg, 'model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
    runtime.check_packages(cfg)
    check_datasets(cfg, ('train', 'val'))
    runtime.fit_to_hardware(cfg, force_amp=True)
    runtime.accumulate_gradients(cfg, 2)
    assert cfg.optim_wrapper.type == 'mmvitscale.BF16OptimWrapper' and cfg.train_cfg.max_iters == 4
    assert cfg.custom_hooks[0].interval == 2 and cfg.default_hooks.checkpoint.interval == 2
    runner = RUNNERS.build(cfg)
    assert sum(type(hook) is Ours for hook in runner.hooks) == 1
    runner.train()
    assert (tmp_path / 'iter_4.pth').is_file()


def test_reading_data_only_blocks_code_and_restores_the_process(tmp_path):
    marker = tmp_path / 'ran'
    attack = tmp_path / 'a.pkl'
    attack.write_bytes(pickle.dumps(Attack(marker)))
    plain = tmp_path / 'b.pkl'
    mmengine.dump(dict(a=[1, 2.0, 'x'], b=torch.ones(2)), str(plain))
    torch.save(Attack(marker), tmp_path / 'a.pth')
    before = dict(os.environ)
    with reading_data_only():
        with pytest.raises(pickle.UnpicklingError, match='unsupported global'):
            mmengine.load(str(attack))
        with pytest.raises(pickle.UnpicklingError):
            torch.load(tmp_path / 'a.pth', weights_only=False)
        assert mmengine.load(str(plain))['a'] == [1, 2.0, 'x']
    assert not marker.exists() and dict(os.environ) == before
    mmengine.load(str(attack))
    assert marker.exists()


def test_a_metric_that_does_not_exist_is_named_with_those_that_do():
    from mmseg.evaluation import IoUMetric

    metric = IoUMetric(iou_metrics=['mIuO'])
    metric.dataset_meta = dict(classes=['a', 'b'])
    with pytest.raises(KeyError) as caught:
        metric.compute_metrics([(torch.ones(2),) * 4])
    assert re.search(
        r"IoUMetric cannot be computed .*'mIuO'.* not supported; mIoU, mDice and mFscore are.; correct its options",
        str(explain(caught.value)),
    )


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch):
    """Built by a registry as a user's mistake would be."""
    from mmvitscale.models.layers import patch_embed

    init_default_scope('mmseg')

    def explained(**options):
        cfg = dict(type='mmvitscale.SwinTransformerV2', arch='tiny', window_size=8, **options)
        try:
            MODELS.build(cfg)
        except Exception as error:
            return explain(error)

    assert 'cannot be built' in str(explained(colour=1))
    # As a line of ours would raise it.
    namespace = {'__name__': 'broken'}
    source = "def broken(self, *args, **kwargs):\n    raise ValueError('a defect')"
    exec(compile(source, patch_embed.__file__, 'exec'), namespace)
    monkeypatch.setattr(patch_embed.PatchEmbed, '__init__', namespace['broken'])
    assert explained() is None


def test_the_onednn_kernel_cache_is_limited_unless_already_set(monkeypatch):
    monkeypatch.delenv('ONEDNN_PRIMITIVE_CACHE_CAPACITY', raising=False)
    cpu.limit_kernel_cache()
    assert os.environ['ONEDNN_PRIMITIVE_CACHE_CAPACITY'] == '64'
    monkeypatch.setenv('ONEDNN_PRIMITIVE_CACHE_CAPACITY', '9')
    cpu.limit_kernel_cache()
    assert os.environ['ONEDNN_PRIMITIVE_CACHE_CAPACITY'] == '9'
