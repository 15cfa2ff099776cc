"""What a training is built with: the batch that fits, the picture of the first batch, trackers, averages."""

import gc
import random
import re
import uuid
import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmvitscale.analysis.logs import read_log
from mmvitscale.checkpoints.io import read_checkpoint
from mmvitscale.config.loading import load_config
from mmvitscale.config.training_options import add_training_options
from mmvitscale.datasets import mini
from mmvitscale.engine import batch_size
from mmvitscale.engine.hooks.training_batch_picture import TrainingBatchPictureHook, grid
from mmvitscale.engine.training import build_training
from mmvitscale.errors import InputError

pytestmark = pytest.mark.integration

SMALL = {
    'model.backbone.arch': {'embed_dims': 8, 'depths': [1, 1, 1, 1], 'num_heads': [1, 1, 1, 1]},
    'model.data_preprocessor.size': (64, 64),
}
SEGMENTATION = {
    **SMALL,
    'model.decode_head.in_channels': [8, 16, 32, 64],
    'model.auxiliary_head.in_channels': 32,
    'train_dataloader.dataset.pipeline.2.crop_size': (64, 64),
}


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return mini.write_dataset(tmp_path_factory.mktemp('data') / 'mini', train=8, val=2, size=64)


def config(scenes, iters=2, name='swinv2_upernet_mini', more=None):
    options = {
        'data_root': f'{scenes}/ADEChallengeData2016',
        **SEGMENTATION,
        'train_cfg.max_iters': iters,
        'train_cfg.val_interval': iters,
        'default_hooks.logger.interval': 1,
        'default_hooks.checkpoint.interval': iters,
        'log_level': 'WARNING',
        'val_cfg': None,
        'val_dataloader': None,
        'val_evaluator': None,
    }
    for split in ('train', 'val', 'test'):
        options[f'{split}_dataloader.num_workers'] = 0
        options[f'{split}_dataloader.persistent_workers'] = False
    options = {key: value for key, value in options.items() if not key.startswith('val_dataloader.')}
    return load_config(name, {**options, **(more or {})})


def trained(cfg, work_dir, **options):
    # MMEngine gives one name one object for the life of a process.
    cfg.experiment_name = cfg.visualizer.name = uuid.uuid4().hex
    runner = build_training(cfg, str(work_dir), **options)
    runner.train()
    return runner


def losses(work_dir):
    return read_log(Path(work_dir)).curve('loss')[1]


# --- the batch that fits


@pytest.fixture
def gpu_for(monkeypatch):
    """As if there was a GPU, whose memory suffices for so many images."""
    tried = []

    def install(images):
        step = batch_size.train_step

        def limited(runner, batch):
            tried.append(len(batch['inputs']))
            if len(batch['inputs']) > images:
                raise torch.OutOfMemoryError('CUDA out of memory')
            step(runner, batch)

        monkeypatch.setattr(batch_size, 'get_device', lambda: 'cuda')
        monkeypatch.setattr(batch_size, 'train_step', limited)
        return tried

    return install


@pytest.mark.parametrize('fits, found, tries', [(99, 8, [8, 8]), (5, 4, [8, 4, 4]), (2, 2, [8, 4, 2, 2])])
def test_the_batch_is_halved_until_it_fits(fits, found, tries, scenes, tmp_path, gpu_for):
    tried, cfg = gpu_for(fits), config(scenes)
    add_training_options(cfg, batch_size='auto')
    runner = build_training(cfg, str(tmp_path))
    assert cfg.train_dataloader.batch_size == found and tried == tries
    assert runner.train_dataloader.batch_size == found if not isinstance(runner.train_dataloader, dict) else True


def test_accumulated_batches_are_tried_until_an_update_and_beyond(scenes, tmp_path, gpu_for):
    tried, cfg = gpu_for(4), config(scenes)
    add_training_options(cfg, batch_size='auto')
    build_training(cfg, str(tmp_path), accumulate_grad=3)
    assert tried == [8, 4, 4, 4, 4] and cfg.train_cfg.max_iters == 6


@pytest.mark.parametrize('seed', [0, None])
def test_finding_the_batch_leaves_no_trace(seed, scenes, tmp_path, gpu_for):
    """The training is the one with that batch given, to the last bit, and what was built for it is gone."""
    gpu_for(4)
    kept = []

    def runs(name, images):
        cfg = config(scenes, more={'randomness.seed': seed, 'train_dataloader.sampler.shuffle': True})
        add_training_options(cfg, ema=True, batch_size=images)
        for state in (random, np.random, torch):
            (state.manual_seed if state is torch else state.seed)(7)
        trained(cfg, tmp_path / name)
        return losses(tmp_path / name), read_checkpoint(tmp_path / name / 'iter_2.pth')['state_dict'], cfg

    build = batch_size._built
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            batch_size,
            '_built',
            lambda *args: [(kept.append(weakref.ref(built[0].model)), built)[1] for built in [build(*args)]][0],
        )
        found_losses, found_weights, cfg = runs('auto', 'auto')
    gc.collect()
    given_losses, given_weights, _ = runs('given', 4)
    assert cfg.train_dataloader.batch_size == 4
    assert found_losses == given_losses and len(given_losses) == 2
    assert all(torch.equal(found_weights[key], given_weights[key]) for key in given_weights)
    assert kept[0]() is None
    assert not [path for path in tmp_path.iterdir() if path.name not in ('auto', 'given')]


def test_what_no_gpu_can_do_is_refused(scenes, tmp_path, gpu_for):
    cfg = config(scenes)
    add_training_options(cfg, batch_size='auto')
    with pytest.raises(InputError, match='but there is none; give the number of images, e.g. --batch-size 4'):
        build_training(cfg, str(tmp_path))
    gpu_for(0)
    with pytest.raises(InputError, match='not even one image fits'):
        build_training(cfg, str(tmp_path))
    cfg.strategy = dict(type='FSDPStrategy')
    with pytest.raises(InputError, match='auto found with FSDPStrategy'):
        build_training(cfg, str(tmp_path))


@pytest.mark.slow
def test_processes_take_the_least_that_any_of_them_found(tmp_path):
    torch.multiprocessing.spawn(_agrees, args=(str(tmp_path / 'group'),), nprocs=2)


def _agrees(rank, file):
    from mmengine.config import Config

    torch.distributed.init_process_group('gloo', init_method=f'file://{file}', rank=rank, world_size=2)
    assert batch_size.agree(Config(dict(launcher='pytorch')), [8, 4][rank]) == 4
    torch.distributed.destroy_process_group()


# --- the first batch as a picture


def test_the_first_batch_is_drawn_and_changes_nothing(scenes, tmp_path):
    drawn = trained(config(scenes), tmp_path / 'drawn')
    plain = trained(config(scenes, more={'default_hooks.training_batch_picture': None}), tmp_path / 'plain')
    assert not [hook for hook in plain.hooks if isinstance(hook, TrainingBatchPictureHook)]
    assert losses(tmp_path / 'drawn') == losses(tmp_path / 'plain')
    weights = [runner.model.state_dict() for runner in (drawn, plain)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not (tmp_path / 'plain/train_batch.jpg').exists()
    picture = cv2.imread(str(tmp_path / 'drawn/train_batch.jpg'))
    assert picture.shape[1] == 3 * (64 + 4)  # eight crops in three columns
    assert list((tmp_path / 'drawn').glob('*/vis_data/vis_image/train_batch_0.png'))


@pytest.mark.parametrize(
    'name', ['swinv2_upernet_mini', 'swinv2_mask_rcnn_mini', 'swinv2_classifier_mini_96_w6', 'swinv2_simmim_mini_96_w6']
)
def test_normalisation_is_undone_whatever_the_task(name, scenes):
    from mmengine.registry import MODELS, init_default_scope

    from mmvitscale.engine.hooks.training_batch_picture import to_picture

    cfg = load_config(name)
    init_default_scope(cfg.default_scope)
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    image = torch.randint(0, 255, (3, 32, 32), dtype=torch.uint8)
    inputs = preprocessor.cast_data(image[None].float())
    if getattr(preprocessor, '_channel_conversion', False) or getattr(preprocessor, 'to_rgb', False):
        inputs = inputs.flip(1)
    inputs = (inputs - preprocessor.mean) / preprocessor.std
    picture = to_picture(inputs[0], preprocessor, cfg)
    assert np.array_equal(picture, image.permute(1, 2, 0).numpy())  # BGR, as images are loaded
    marked = torch.cat([inputs[0], torch.ones(1, 32, 32)])  # padding is a channel more
    assert np.array_equal(to_picture(marked, preprocessor, cfg), picture)


def test_of_many_channels_those_are_shown_that_the_config_shows(tmp_path):
    from mmvitscale.engine.hooks.training_batch_picture import to_picture

    cfg = load_config('swinv2_upernet_mini_rgbd')
    normalise = cfg.train_dataloader.dataset.pipeline[1]
    channels = np.arange(4, dtype=np.float32)[:, None, None] + np.arange(64, dtype=np.float32).reshape(8, 8)
    fed = (channels - np.float32(normalise.mean)[:, None, None]) / np.float32(normalise.std)[:, None, None]
    picture = to_picture(torch.from_numpy(fed), torch.nn.Identity(), cfg)
    assert picture.shape == (8, 8, 3) and picture.min() == 0 and picture.max() == 255


@pytest.mark.parametrize('what', ['draw', 'grid'])
def test_a_picture_that_fails_ends_no_training(what, scenes, tmp_path, monkeypatch):
    def fail(*args):
        raise ZeroDivisionError('no picture')

    monkeypatch.setattr(f'mmvitscale.engine.hooks.training_batch_picture.{what}', fail)
    trained(config(scenes, 1), tmp_path)
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'no picture of the first training batch (ZeroDivisionError: no picture)' in log
    assert not (tmp_path / 'train_batch.jpg').exists()


def test_pictures_of_several_sizes_make_a_grid():
    whole = grid([np.zeros((40, 20, 3), np.uint8), np.zeros((900, 300, 3), np.uint8)])
    assert whole.shape == (448 + 4, 2 * (149 + 4), 3) and (whole[40:, :20] == 255).all()
    with pytest.raises(InputError, match='images=0'):
        TrainingBatchPictureHook(0)


# --- averages


@HOOKS.register_module(force=True)
class Remembers(Hook):
    """The weights after each update."""

    weights: list = []

    def after_train_iter(self, runner, *args, **kwargs):
        Remembers.weights.append({name: value.detach().clone() for name, value in runner.model.state_dict().items()})


def test_the_model_that_is_saved_is_the_running_average(scenes, tmp_path):
    Remembers.weights = []
    cfg = config(scenes, 6)
    cfg.custom_hooks.append(dict(type='Remembers'))
    add_training_options(cfg, ema=True)
    trained(cfg, tmp_path)
    content = read_checkpoint(tmp_path / 'iter_6.pth')
    average = {key: value.clone() for key, value in Remembers.weights[0].items()}
    for step, weights in enumerate(Remembers.weights[1:], 1):
        momentum = max(0.0002, 10 / (10 + step))
        for key, value in weights.items():
            if value.is_floating_point():
                average[key] += momentum * (value - average[key])
    moved = 0
    for key, value in average.items():
        if value.is_floating_point():
            assert torch.allclose(content['state_dict'][key], value, atol=1e-6), key
            moved += not torch.equal(value, Remembers.weights[-1][key])
    assert moved > 50
    assert all(
        torch.equal(content['ema_state_dict'][f'module.{key}'], Remembers.weights[-1][key])
        for key in average
        if average[key].is_floating_point()
    )


def test_averages_go_on_when_a_training_is_resumed(scenes, tmp_path):
    def run(name, iters, resume=None):
        cfg = config(scenes, iters, more={'default_hooks.checkpoint.interval': 1, 'train_cfg.max_iters': iters})
        cfg.param_scheduler = None
        add_training_options(cfg, ema=True)
        trained(cfg, tmp_path / name, resume=resume)
        return read_checkpoint(tmp_path / name / f'iter_{iters}.pth')

    whole = run('whole', 3)
    run('parts', 2)
    parts = run('parts', 3, 'auto')
    for part in ('state_dict', 'ema_state_dict'):
        assert all(torch.equal(whole[part][key], parts[part][key]) for key in whole[part])


# --- trackers


def tracked(scenes, tmp_path, *names):
    cfg = config(scenes)
    add_training_options(cfg, track=names)
    return trained(cfg, tmp_path / 'work')


def test_tensorboard_has_metrics_config_and_picture(scenes, tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracked(scenes, tmp_path, 'tensorboard')
    folder = next((tmp_path / 'work').glob('*/vis_data'))
    events = EventAccumulator(str(folder), size_guidance=dict(tensors=0, scalars=0, images=0)).Reload()
    assert [(event.step, pytest.approx(event.value)) for event in events.Scalars('loss')] == list(
        zip((1, 2), losses(tmp_path / 'work'))
    )
    text = events.Tensors('config/text_summary')[0].tensor_proto.string_val[0].decode()
    assert 'mmvitscale.SwinTransformerV2' in text
    image = events.Images('train_batch')[0]
    shape = cv2.imread(str(tmp_path / 'work/train_batch.jpg')).shape
    assert (image.height, image.width, 3) == shape


def test_mlflow_has_metrics_config_and_picture(scenes, tmp_path, monkeypatch):
    pytest.importorskip('mlflow')
    from mlflow import MlflowClient

    for name in ('MLFLOW_TRACKING_URI', 'MLFLOW_EXPERIMENT_NAME'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # a second start is a second run of the experiment
        tracked(scenes, tmp_path, 'mlflow')
    assert [path.name for path in tmp_path.iterdir()] == ['work']
    client = MlflowClient(f'sqlite:///{tmp_path}/work/mlflow.db')
    experiment = client.get_experiment_by_name('work')
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 2 and {run.info.status for run in runs} == {'FINISHED'}
    run = runs[0].info.run_id
    history = [(metric.step, metric.value) for metric in client.get_metric_history(run, 'loss')]
    assert history == [(i, pytest.approx(value)) for i, value in zip((1, 2), losses(tmp_path / 'work'))]
    parameters = client.get_run(run).data.params
    assert parameters['model.backbone.window_size'] == '8' and len(parameters) > 100
    assert sorted(item.path for item in client.list_artifacts(run)) == ['config.py', 'train_batch.png']
    picture = cv2.imread(client.download_artifacts(run, 'train_batch.png', str(tmp_path)))
    assert picture.shape == cv2.imread(str(tmp_path / 'work/train_batch.jpg')).shape
    text = Path(client.download_artifacts(run, 'config.py', str(tmp_path))).read_text()
    assert 'SwinTransformerV2' in text


@pytest.mark.slow
def test_mlflow_goes_where_the_environment_says(scenes, tmp_path, monkeypatch):
    pytest.importorskip('mlflow')
    from mlflow import MlflowClient

    uri = f'sqlite:///{tmp_path}/elsewhere.db'
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('MLFLOW_TRACKING_URI', uri)
    monkeypatch.setenv('MLFLOW_EXPERIMENT_NAME', 'mine')
    tracked(scenes, tmp_path, 'mlflow')
    assert not (tmp_path / 'work/mlflow.db').exists()
    experiment = MlflowClient(uri).get_experiment_by_name('mine')
    assert len(MlflowClient(uri).search_runs([experiment.experiment_id])) == 1


def test_a_server_that_does_not_answer_is_said_at_once(scenes, tmp_path, monkeypatch):
    pytest.importorskip('mlflow')
    monkeypatch.setenv('MLFLOW_TRACKING_URI', 'http://127.0.0.1:9')
    monkeypatch.setenv('MLFLOW_HTTP_REQUEST_MAX_RETRIES', '0')
    with pytest.raises(InputError, match='MLflow cannot be opened.*leave it out of --track'):
        tracked(scenes, tmp_path, 'mlflow')


@pytest.mark.slow
def test_the_command_stops_a_training_that_stalls_and_all_tools_take_the_best_checkpoint(scenes, run_here, tmp_path):
    """At a learning rate of 0 BatchNorm alone changes."""
    options = [f'data_root={scenes}/ADEChallengeData2016', 'train_cfg.max_iters=9', 'train_cfg.val_interval=1']
    options += ['optim_wrapper.optimizer.lr=0', 'default_hooks.checkpoint.interval=9', 'val_dataloader.num_workers=0']
    options += ['train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False']
    options += ['val_dataloader.persistent_workers=False']
    work = tmp_path / 'work'
    chosen = ['--ema', '--early-stop', 2, '--batch-size', 2, '--track', 'tensorboard']
    code, output, errors = run_here(
        'tools/train.py', 'swinv2_upernet_mini', '--work-dir', work, *chosen, '--cfg-options', *options
    )
    assert code == 0, errors
    log = next(work.glob('*/*.log')).read_text()
    stopped = re.search(r'Early stopping at iteration (\d): mIoU has not improved for 2 validations.* of iteration (\d)', log)
    last, best = map(int, stopped.groups())
    assert last == best + 2 < 9 and f'the best checkpoint is {work}/best_mIoU_iter_{best}.pth' in log
    assert 'the learning rate is for batches of 8 images, here they have 2; consider --accumulate-grad 4' in log
    config = next(work.glob('*.py'))
    code, output, errors = run_here('tools/test.py', config, work / 'best.pth', '--work-dir', tmp_path / 'test')
    assert code == 0 and 'mIoU' in output, errors
    assert not list((tmp_path / 'test').rglob('events*'))
