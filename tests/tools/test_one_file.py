"""A checkpoint alone: predictions, tests, exports and reports without the config's file and the data of the training."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from mmvitscale.checkpoints.io import read_checkpoint
from mmvitscale.config.embedded import META_KEY
from mmvitscale.datasets.mini import write_dataset
from mmvitscale.inference import Predictor
from tests.helpers.commands import FOREGROUND, ROOT, in_process, path_without_deepspeed

pytestmark = pytest.mark.integration

SMALL = 'arch=dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))'
# Task -> its config, where its data are, what is saved of a prediction.
TASKS = dict(
    segmentation=(
        f"""_base_ = 'mmvitscale::swinv2_upernet_mini'
model = dict(
    backbone=dict({SMALL}), decode_head=dict(in_channels=[8, 16, 32, 64], channels=16),
    auxiliary_head=dict(in_channels=32, channels=16))
""",
        'ADEChallengeData2016',
        'labels',
    ),
    detection=(
        f"""_base_ = 'mmvitscale::swinv2_retinanet_mini'
model = dict(
    backbone=dict({SMALL}), neck=dict(in_channels=[16, 32, 64], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1), test_cfg=dict(score_thr=0.0))
""",
        'coco/',
        'json',
    ),
    classification=(
        f"""_base_ = 'mmvitscale::swinv2_classifier_mini_96_w6'
model = dict(backbone=dict({SMALL}), head=dict(in_channels=64))
""",
        'ADEChallengeData2016',
        'json',
    ),
)


def read(folder, kind):
    """What was saved of the prediction of a.png."""
    if kind == 'labels':
        return cv2.imread(str(folder / 'labels/a.png'), cv2.IMREAD_UNCHANGED).tolist()
    return json.loads((folder / 'json/a.json').read_text())


@pytest.fixture(scope='module', params=TASKS)
def trained(request, tmp_path_factory):
    """A folder with a checkpoint, an image, and in ``with_config`` the prediction that the config's file gives; the data lie in
    another place than in training, and the config's file, the work folder and all else is gone."""
    text, data, kind = TASKS[request.param]
    root, alone = tmp_path_factory.mktemp('training'), tmp_path_factory.mktemp('alone')
    write_dataset(root / 'mini', train=2, val=2, size=64)
    config = root / 'mine.py'
    config.write_text(f'{text}data_root = {str(root / "mini" / data)!r}\n')
    options = [f'data_root={root / "mini" / data}', 'train_cfg.max_iters=1', 'train_cfg.val_interval=1']
    options += ['default_hooks.checkpoint.interval=1', 'train_dataloader.batch_size=2', *FOREGROUND]
    config.write_text(text)
    assert in_process('tools/train.py', config, '--work-dir', root / 'work', '--cfg-options', *options) == 0
    saved = next((root / 'work').glob('best_*.pth'), root / 'work/iter_1.pth')
    shutil.copy(saved, alone / 'best.pth')
    cv2.imwrite(str(alone / 'a.png'), np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    command = [config, alone / 'best.pth', alone / 'a.png', '--out', root / 'out', '--save', kind, '--no-pictures']
    assert in_process('tools/predict.py', *command) == 0
    expected = read(root / 'out', kind)
    (root / 'mini').rename(alone / 'moved')
    shutil.rmtree(root)
    return alone, kind, expected, data


def in_folder(folder, *command):
    """A tool in a process of its own, in this folder."""
    environment = {**os.environ, 'OMP_NUM_THREADS': '2', 'PYTHONPATH': os.pathsep.join((str(ROOT), path_without_deepspeed()))}
    tool, *rest = map(str, command)
    return subprocess.run([sys.executable, ROOT / tool, *rest], cwd=folder, capture_output=True, text=True, env=environment)


def test_a_checkpoint_alone_predicts_as_with_its_config(trained):
    folder, kind, expected, _ = trained
    result = in_folder(folder, 'tools/predict.py', 'best.pth', 'a.png', '--out', 'out', '--save', kind)
    assert result.returncode == 0, result.stderr
    assert read(folder / 'out', kind) == expected
    entry = json.loads((folder / 'out/predict.json').read_text())
    assert entry['config'] == 'best.pth'


def test_a_repeated_call_goes_on_where_the_first_stopped(trained, run_here):
    """By the record, whose config is that of the checkpoint."""
    folder, kind, *_ = trained
    command = ['tools/predict.py', folder / 'best.pth', folder / 'a.png', '--out', folder / 'twice', '--save', kind]
    for says in ('1 predicted', '0 predicted'):
        code, out, err = run_here(*command)
        assert code == 0 and says in out, err


def test_a_checkpoint_alone_is_tested_where_its_data_lie_now(trained, run_here, error_of):
    folder, _, _, data = trained
    before = (folder / 'best.pth').read_bytes()
    line = error_of('tools/test.py', folder / 'best.pth', '--work-dir', folder / 'work')
    assert 'is not there' in line and '--cfg-options data_root=PATH' in line
    options = ['--cfg-options', f'data_root={folder / "moved" / data}']
    out = folder / 'metrics.json'
    # The work folder is that of the checkpoint, which the dumped config must not replace.
    code, _, err = run_here('tools/test.py', folder / 'best.pth', '--work-dir', folder, '--out', out, *options)
    assert code == 0 and json.loads(out.read_text()), err
    assert (folder / 'best.pth').read_bytes() == before and (folder / 'best.py').is_file()


def test_a_checkpoint_alone_becomes_a_report(trained, run_here):
    folder, _, _, data = trained
    command = ['tools/report.py', folder / 'best.pth', '--cfg-options', f'data_root={folder / "moved" / data}']
    code, out, err = run_here(*command)
    assert code == 0, err
    page = (folder / 'best_report.html').read_text()
    assert 'best.pth' in page and 'Confusion matrix' in page and 'Curves' not in page
    assert 'SwinTransformerV2' in page and 'note: ' not in err


def test_python_predicts_with_a_path(trained):
    folder, *_ = trained
    assert Predictor(folder / 'best.pth').draw(folder / 'a.png').size[0] > 0


def test_a_training_saves_few_kilobytes_of_it(trained):
    entry = read_checkpoint(trained[0] / 'best.pth')['meta'][META_KEY]
    assert len(pickle.dumps(entry)) < 20_000 and entry['config']['train_cfg']


@pytest.fixture
def checkpoint(trained):
    return trained[0] / 'best.pth'


# Of one task, the quickest.
alone_of_segmentation = pytest.mark.parametrize('trained', ['segmentation'], indirect=True)


@alone_of_segmentation
def test_exports_and_analyses_need_no_config(checkpoint, tmp_path, run_here, error_of):
    code, out, err = run_here('tools/export.py', checkpoint, '--out', tmp_path, '--format', 'torch-export', '--image-size', 64)
    assert code == 0, err
    assert (tmp_path / 'best_64x64.pt2').is_file()
    image = checkpoint.with_name('a.png')
    line = error_of('tools/predict.py', tmp_path / 'best_64x64.pt2', image, '--out', tmp_path / 'out')
    assert 'is an exported file, which holds no config; give CONFIG ' in line
    line = error_of('tools/export.py', checkpoint, '--out', tmp_path / 'b', '--image-size', 64, '--int8', 1)
    assert 'has no train_dataloader' in line and 'give the config of a training' in line
    roots = ['--cfg-options', f'data_root={checkpoint.parent / "moved/ADEChallengeData2016"}']
    for tool, *more in (
        ('position_bias', '--compare-with', checkpoint, 'model.backbone.window_size=4'),
        ('attention_similarity',),
        ('amplitude',),
        ('attention_maps',),
        ('confusion_matrix', *roots),
    ):
        images = [image] if tool in ('attention_similarity', 'amplitude', 'attention_maps') else []
        out = tmp_path / tool
        code, _, err = run_here(f'tools/analysis/{tool}.py', checkpoint, *images, '--out', out, *more)
        assert code == 0 and any(out.iterdir()), err


@alone_of_segmentation
def test_command_lines_that_lack_something_say_what(checkpoint, tmp_path, error_of):
    image, config, out = checkpoint.with_name('a.png'), 'swinv2_upernet_mini', ['--out', tmp_path / 'out']
    for tool, positional, says in (
        ('predict', [checkpoint], f'no image was given; give {checkpoint} IMAGE'),
        ('predict', [config, checkpoint], 'no image was given; give CONFIG CHECKPOINT IMAGE'),
        ('predict', ['swinv2_uprnet_mini', checkpoint], 'did you mean swinv2_upernet_mini?'),
        ('predict', [image, checkpoint], 'a.png is neither a config nor a checkpoint'),
        ('predict', [image, checkpoint, image], 'a.png is neither a config nor a checkpoint'),
        ('predict', [image.parent, checkpoint], 'is neither a config nor a checkpoint'),
        ('predict', [checkpoint, 'mine.py', image], 'mine.py found behind the checkpoint'),
        ('predict', [checkpoint, image, checkpoint], 'best.pth found behind the checkpoint'),
        ('test', [config], 'no checkpoint was given; give CONFIG CHECKPOINT'),
        ('test', [checkpoint, checkpoint], 'found behind the checkpoint'),
        ('test', [checkpoint, config], f'{config} found behind the checkpoint'),
        ('analysis/amplitude', [checkpoint, image, image], 'found behind the checkpoint'),
        ('report', [image], 'work folder or checkpoint .* is not there'),
        ('report', [checkpoint, '--checkpoint', checkpoint], 'give one, or a work folder'),
    ):
        more = out if tool != 'test' else ['--work-dir', tmp_path / 'out']
        line = error_of(f'tools/{tool}.py', *positional, *(['--out', tmp_path / 'page.html'] if tool == 'report' else more))
        assert re.search(says, line), (tool, positional, line)


@alone_of_segmentation
def test_options_may_stand_between_the_arguments(checkpoint, tmp_path, run_here):
    image = checkpoint.with_name('a.png')
    code, _, err = run_here('tools/predict.py', checkpoint, '--out', tmp_path / 'out', '--score-thr', 0.5, image)
    assert code == 0, err
