"""From a user's data to a config, and on to a picture."""

import shutil

import cv2
import pytest
from mmengine.registry import DATASETS, init_default_scope

from mmvitscale.autoconfig.write_config import batch_that_fits
from mmvitscale.config.loading import load_config
from mmvitscale.config.model_index import build_on_meta
from mmvitscale.config.runtime import describe_batch
from mmvitscale.datasets import mini
from mmvitscale.datasets.checks import check_datasets
from tests.helpers.commands import FOREGROUND

pytestmark = pytest.mark.integration

QUICK = [('segmentation', 'small'), ('instance', 'large')]
TEN = 'stripes,checks,dots,grain,disc,square,triangle,ring,cross,star'


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return mini.write_dataset(tmp_path_factory.mktemp('data') / 'mini', train=12, val=2, size=96)


def arguments(scenes, task):
    data = scenes / ('ADEChallengeData2016' if task == 'segmentation' else 'coco')
    return ['--data', data, '--task', task, *(['--classes', TEN] if task == 'segmentation' else [])]


MACHINES = dict(cpu=[], small=['--gpu-memory', 6], large=['--gpu-memory', 80, '--frozen'])


@pytest.mark.parametrize(
    'task, options',
    [
        pytest.param(
            task,
            options,
            id=f'{task}-{machine}',
            marks=() if machine == 'cpu' or (task, machine) in QUICK else pytest.mark.slow,
        )
        for task in ('segmentation', 'detection', 'instance')
        for machine, options in MACHINES.items()
    ],
)
def test_generated_configs_build_models_and_datasets_for_every_task(task, options, scenes, run_here, tmp_path):
    out = tmp_path / 'own.py'
    code, printed, _ = run_here('tools/new_config.py', *arguments(scenes, task), '--out', out, *options)
    assert code == 0 and f'next: python tools/train.py {out}' in printed and 'images: 12 train, 2 val' in printed
    assert len(out.read_text().splitlines()) <= 36
    cfg = load_config(str(out))
    check_datasets(cfg, ('train', 'val', 'test'))
    model = build_on_meta(cfg)
    assert (model.backbone.frozen_stages == 4) == ('--frozen' in options)
    assert ('init_cfg' in cfg.model.backbone) == bool(options)
    init_default_scope(cfg.default_scope)
    for split in ('train', 'val', 'test'):
        dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
        assert len(dataset) == (12 if split == 'train' else 2) and dataset[0]['inputs'].shape[0] == 3
    assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_iters and cfg.train_dataloader.batch_size >= 2
    assert describe_batch(cfg, 1) is None  # the learning rate is for the batch that was chosen
    if task == 'segmentation' and options:  # windows that divide every map of a crop
        assert cfg.crop_size[0] == 32 * cfg.model.backbone.window_size


def test_a_generated_config_trains_and_predicts(scenes, run_here, tmp_path):
    out, work = tmp_path / 'own.py', tmp_path / 'work'
    assert run_here('tools/new_config.py', *arguments(scenes, 'detection'), '--out', out)[0] == 0
    code, printed, err = run_here(
        'tools/train.py',
        out,
        '--work-dir',
        work,
        '--cfg-options',
        *FOREGROUND,
        'iters=2',
        'train_cfg.max_iters=2',
        'train_cfg.val_interval=2',
        'train_dataloader.batch_size=2',
        'default_hooks.checkpoint.interval=2',
    )
    assert code == 0, err
    image = scenes / 'coco/val2017/scene_00000.jpg'
    code, _, err = run_here(
        'tools/predict.py', out, work / 'iter_2.pth', image, '--out', tmp_path / 'pictures', '--score-thr', 0
    )
    assert code == 0, err
    assert cv2.imread(str(tmp_path / 'pictures/scene_00000.png')) is not None


@pytest.mark.parametrize('task', ['segmentation', 'instance'])
def test_validation_images_are_split_off_where_none_are_given(task, scenes, run_here, tmp_path):
    data = tmp_path / 'data'
    source = scenes / ('ADEChallengeData2016' if task == 'segmentation' else 'coco')
    folders = ['images/training', 'annotations/training'] if task == 'segmentation' else ['train2017', 'annotations']
    for folder in folders:
        (data / folder).mkdir(parents=True)
        for file in (source / folder).iterdir():
            if 'val' not in file.name:
                (data / folder / file.name).write_bytes(file.read_bytes())
    out = data / 'own.py'
    options = ['--classes', TEN] if task == 'segmentation' else []
    assert run_here('tools/new_config.py', '--data', data, '--task', task, '--out', out, *options)[0] == 0
    cfg = load_config(str(out))
    check_datasets(cfg, ('train', 'val'))
    init_default_scope(cfg.default_scope)
    names = {}
    for split in ('train', 'val'):
        dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
        names[split] = {dataset.get_data_info(i)['img_path'] for i in range(len(dataset))}
    assert len(names['train'] | names['val']) == 12 and 2 <= len(names['val']) <= 3 and not names['train'] & names['val']
    # once more: what was written beside the data is not taken for data
    code, printed, _ = run_here('tools/new_config.py', '--data', data, '--task', task, '--out', out, '--overwrite', *options)
    assert code == 0 and 'images: 12 train;' in printed


def test_the_data_themselves_are_never_overwritten(scenes, error_of, tmp_path):
    source = tmp_path / 'my_train.json'
    source.write_bytes((scenes / 'coco/annotations/instances_train2017.json').read_bytes())
    shutil.copytree(scenes / 'coco/train2017', tmp_path / 'train')
    before = source.read_bytes()
    error = error_of('tools/new_config.py', '--data', source, '--task', 'detection', '--out', tmp_path / 'my.py', '--overwrite')
    assert 'would overwrite the data themselves' in error and 'choose another name' in error
    assert source.read_bytes() == before and not (tmp_path / 'my.py').exists()


def test_a_split_inside_the_folder_of_another_stays_out_of_it(scenes, run_here, tmp_path):
    ade = scenes / 'ADEChallengeData2016'
    for kind, folder in (('images', 'images'), ('masks', 'annotations')):
        shutil.copytree(ade / folder / 'training', tmp_path / kind)
        shutil.copytree(ade / folder / 'validation', tmp_path / kind / 'val')
    out = tmp_path / 'own.py'
    code, *_ = run_here('tools/new_config.py', '--data', tmp_path, '--task', 'segmentation', '--classes', TEN, '--out', out)
    assert code == 0
    cfg = load_config(str(out))
    init_default_scope(cfg.default_scope)
    assert [len(DATASETS.build(cfg[f'{split}_dataloader'].dataset)) for split in ('train', 'val')] == [12, 2]


def test_images_for_testing_validate_where_none_are_for_that(scenes, run_here, tmp_path):
    for split, folder in (('train', 'train2017'), ('test', 'val2017')):
        source = scenes / f'coco/annotations/instances_{folder}.json'
        (tmp_path / f'{split}.json').write_bytes(source.read_bytes())
        shutil.copytree(scenes / 'coco' / folder, tmp_path / split)
    out = tmp_path / 'own.py'
    assert run_here('tools/new_config.py', '--data', tmp_path, '--task', 'detection', '--out', out)[0] == 0
    cfg = load_config(str(out))
    check_datasets(cfg, ('train', 'val', 'test'))
    assert cfg.val_dataloader.dataset.ann_file == cfg.test_dataloader.dataset.ann_file == 'test.json'


def test_existing_files_and_invalid_options_are_refused(scenes, error_of, tmp_path):
    data = arguments(scenes, 'detection')
    out = tmp_path / 'own.py'
    out.write_text('mine')
    assert f'{out} is there already' in error_of('tools/new_config.py', *data, '--out', out)
    assert out.read_text() == 'mine'
    assert 'a config is a Python file' in error_of('tools/new_config.py', *data, '--out', tmp_path / 'own.json')
    assert '--gpu-memory 1 found' in error_of('tools/new_config.py', *data, '--out', tmp_path / 'b.py', '--gpu-memory', 1)
    assert '--gpu-memory -4 found' in error_of('tools/new_config.py', *data, '--out', tmp_path / 'b.py', '--gpu-memory', -4)
    error = error_of('tools/new_config.py', *data, '--out', tmp_path / 'b.py', '--frozen')
    assert '--frozen keeps pretrained weights' in error
    assert list(tmp_path.iterdir()) == [out]


def test_more_memory_never_means_fewer_images():
    for task in ('segmentation', 'detection', 'instance'):
        batches = [batch_that_fits(task, memory, 512 * 512) for memory in (1, 4, 8, 16, 24, 48, 80)]
        assert batches == sorted(batches) and batches[0] == 0 and batches[-1] == 16
