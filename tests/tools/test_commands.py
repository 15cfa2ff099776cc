"""The commands as a user types them, on a handful of small scenes."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from mmvitscale.checkpoints.metadata import META_KEY
from mmvitscale.datasets import mini
from tests.helpers.commands import FOREGROUND, ROOT, output_of, path_without_deepspeed, run
from tests.helpers.hostile import Attack
from tests.helpers.shared import made_once

pytestmark = pytest.mark.integration

CONFIG = 'configs/mini/swinv2_upernet_mini.py'
# two iterations of a network that is smaller still
OPTIONS = [
    'train_cfg.max_iters=2',
    'train_cfg.val_interval=2',
    'train_dataloader.batch_size=2',
    *FOREGROUND,
    'model.data_preprocessor.size=(64,64)',
    'train_dataloader.dataset.pipeline.2.crop_size=(64,64)',
]


@pytest.fixture(scope='session')
def scenes(tmp_path_factory):
    return mini.write_dataset(tmp_path_factory.mktemp('data') / 'mini', train=4, val=2, size=64)


@pytest.fixture(scope='session')
def options(scenes):
    return [*OPTIONS, f'data_root={scenes}/ADEChallengeData2016']


@pytest.fixture(scope='session')
def trained(tmp_path_factory, options):
    """The work dir and the output of a training with mixed precision."""

    def train(folder):
        output = output_of('tools/train.py', CONFIG, '--work-dir', folder / 'work', '--force-amp', '--cfg-options', *options)
        (folder / 'output.txt').write_text(output)

    folder = made_once(tmp_path_factory, 'trained_segmentor', train)
    return folder / 'work', (folder / 'output.txt').read_text()


@pytest.fixture(scope='session')
def checkpoint(trained):
    return Path((trained[0] / 'last_checkpoint').read_text())


def miou(output):
    return float(re.findall(r'mIoU: ([\d.]+)', output)[-1])


def test_training_logs_the_windows_and_saves_them_in_the_checkpoint(trained, checkpoint):
    assert 'pretrained window' in trained[1] and 'BF16OptimWrapper' in trained[1]
    meta = torch.load(checkpoint, weights_only=False)['meta']
    assert meta[META_KEY] == dict(position_bias='log_cpb', reference_windows=[[8, 8]] * 4, windows=[[8, 8]] * 4)


@pytest.mark.slow
def test_training_with_compiled_blocks_gives_the_same_weights(options, run_here, tmp_path):
    """The backbone alone: through the runner, and to the same weights."""
    weights = []
    try:
        for name, more in (('plain', []), ('compiled', ['compile.target=blocks', 'compile.backend=aot_eager'])):
            code, out, err = run_here(
                'tools/train.py', CONFIG, '--work-dir', tmp_path / name, '--cfg-options', *options, 'randomness.seed=0', *more
            )
            assert code == 0, out + err
            assert ('blocks of the backbone are compiled' in out + err) == bool(more)
            weights.append(torch.load(tmp_path / name / 'iter_2.pth', weights_only=False)['state_dict'])
        assert torch._dynamo.utils.counters['stats']['unique_graphs'] > 0
    finally:
        torch._dynamo.reset()
    assert list(weights[0]) == list(weights[1])
    for name, weight in weights[0].items():
        assert torch.allclose(weight, weights[1][name], atol=1e-5), name


def test_testing_equals_the_validation_of_training(trained, checkpoint, options, run_here, tmp_path):
    # the training's validation ran outside autocast, as testing does
    code, logged, err = run_here(
        'tools/test.py',
        CONFIG,
        checkpoint,
        '--work-dir',
        tmp_path,
        '--show-dir',
        tmp_path / 'pictures',
        '--out',
        tmp_path / 'metrics.json',
        '--cfg-options',
        *options,
    )
    assert code == 0 and miou(logged + err) == miou(trained[1])
    assert json.loads((tmp_path / 'metrics.json').read_text())['mIoU'] == pytest.approx(miou(trained[1]))
    pictures = sorted((tmp_path / 'pictures').glob('*.png'))
    assert [path.name for path in pictures] == ['scene_00000.png', 'scene_00001.png']
    picture = cv2.imread(str(pictures[0]))
    assert picture.shape[1] == 3 * 64 and picture.shape[0] > 64  # image, ground truth, prediction; legend below
    image = cv2.imread(str(Path(options[-1].split('=')[1]) / 'images/validation/scene_00000.jpg'))
    assert np.array_equal(picture[:64, :64], image) and not np.array_equal(picture[:64, 64:128], image)


class OddMetric(BaseMetric):
    """Gives what is no number."""

    def process(self, data_batch, data_samples):
        self.results.append(len(data_samples))

    def compute_metrics(self, results):
        return dict(
            images=np.int64(sum(results)),
            nan=np.float32('nan'),
            per_class=[torch.tensor(1.0), float('inf')],
            matrix=torch.eye(2),
            named={'a': 1, 2: None},
            none=None,
            word='good',
        )


def test_metrics_of_any_type_become_valid_json(checkpoint, options, run_here, tmp_path, monkeypatch):
    monkeypatch.setitem(METRICS._module_dict, 'OddMetric', OddMetric)
    config = tmp_path / 'odd.py'
    config.write_text(f"_base_ = {str(ROOT / CONFIG)!r}\ntest_evaluator = dict(_delete_=True, type='OddMetric')")
    out = tmp_path / 'metrics.json'
    code, _, err = run_here(
        'tools/test.py', config, checkpoint, '--work-dir', tmp_path, '--out', out, '--cfg-options', *options
    )
    assert code == 0, err
    assert 'NaN' not in out.read_text() and 'Infinity' not in out.read_text()
    assert json.loads(out.read_text()) == {
        'images': 2,
        'nan': None,
        'per_class': [1.0, None],
        'matrix': [[1.0, 0.0], [0.0, 1.0]],
        'named': {'a': 1, '2': None},
        'none': None,
        'word': 'good',
    }


def test_test_time_augmentation_writes_predictions_to_a_file(checkpoint, options, run_here, tmp_path):
    code, logged, err = run_here(
        'tools/test.py',
        CONFIG,
        checkpoint,
        '--work-dir',
        tmp_path,
        '--tta',
        '--out',
        tmp_path / 'p.pkl',
        '--cfg-options',
        *options,
    )
    assert code == 0 and 0 <= miou(logged + err) <= 100
    assert (tmp_path / 'p.pkl').stat().st_size > 0


def test_resuming_goes_on_where_training_stopped(trained, options, tmp_path):
    """In a process of its own, as a user types it."""
    work_dir = tmp_path / 'work'
    shutil.copytree(trained[0], work_dir)
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'iter_2.pth'))
    result = run(
        'tools/train.py',
        CONFIG,
        '--work-dir',
        work_dir,
        '--resume',
        '--cfg-options',
        *options,
        'train_cfg.max_iters=3',
        'train_cfg.val_interval=3',
        'default_hooks.logger.interval=1',
        'default_hooks.checkpoint.interval=1',
    )
    iterations = re.findall(r'Iter\(train\) \[(\d+)/3\]', result.stdout + result.stderr)
    assert iterations == ['3']


def test_a_picture_that_cannot_be_drawn_ends_no_evaluation(checkpoint, options, run_here, tmp_path):
    from mmvitscale.inference import Visualizer

    scenes = mini.write_dataset(tmp_path / 'mini', train=1, val=2, size=64) / 'ADEChallengeData2016'
    first = scenes / 'images/validation/scene_00000.jpg'
    cv2.imwrite(str(first), cv2.imread(str(first), cv2.IMREAD_GRAYSCALE))
    for folder in ('images', 'annotations'):  # names that differ in the folder only
        for path in sorted((scenes / folder / 'validation').iterdir()):
            target = path.parent / path.stem / f'same{path.suffix}'
            target.parent.mkdir()
            path.rename(target)
    compare, calls = Visualizer.compare, []

    def fails_once(self, *arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise ValueError('no colour left')
        return compare(self, *arguments)

    command = [
        'tools/test.py',
        CONFIG,
        checkpoint,
        '--work-dir',
        tmp_path / 'work',
        '--cfg-options',
        *[o for o in options if not o.startswith('data_root')],
        f'data_root={scenes}',
    ]
    code, _, err = run_here(*command[:3], '--show-dir', tmp_path / 'pictures', *command[3:])
    assert code == 0, err
    names = sorted(path.relative_to(tmp_path / 'pictures').as_posix() for path in (tmp_path / 'pictures').rglob('*.png'))
    assert names == ['scene_00000/same.png', 'scene_00001/same.png']
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Visualizer, 'compare', fails_once)
        code, logged, err = run_here(*command[:3], '--show-dir', tmp_path / 'fewer', *command[3:])
    assert code == 0 and 'same.jpg: ValueError: no colour left' in logged + err
    assert len(list((tmp_path / 'fewer').rglob('*.png'))) == 1


@pytest.mark.slow
def test_two_cpu_processes_train_together_and_log_once(options, tmp_path):
    environment = {**os.environ, 'PYTHON': sys.executable, 'PYTHONPATH': path_without_deepspeed()}  # on a free port
    result = subprocess.run(
        [
            'bash',
            'tools/dist_train.sh',
            CONFIG,
            '2',
            '--work-dir',
            str(tmp_path),
            '--cfg-options',
            *options,
            'default_hooks.logger.interval=1',
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
    )
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert 'Distributed training: True' in output and 'GPU number: 2' in output
    assert re.findall(r'Iter\(train\) \[ *(\d+)/2\]', output) == ['1', '2']  # logged once, not by each
    assert (tmp_path / 'iter_2.pth').is_file()


# Bad input: one line that says what was found, what is expected and what to do.


def test_missing_and_empty_datasets_are_refused_with_how_to_get_them(error_of, tmp_path):
    error = error_of(
        'tools/train.py',
        'configs/swinv2_upernet_ade20k.py',
        '--work-dir',
        tmp_path / 'w',
        '--cfg-options',
        f'data_root={tmp_path}/ADEChallengeData2016',
    )
    assert f'{tmp_path}/ADEChallengeData2016/images/training is not there' in error
    assert 'ADEChallengeData2016.zip' in error and 'make_mini_dataset.py' in error
    assert not (tmp_path / 'w').exists()
    (tmp_path / 'ADEChallengeData2016/images/training').mkdir(parents=True)
    assert 'images/training is empty' in error_of(
        'tools/train.py', 'configs/swinv2_upernet_ade20k.py', '--cfg-options', f'data_root={tmp_path}/ADEChallengeData2016'
    )


def test_invalid_configs_and_options_are_refused_with_the_reason(error_of, options, checkpoint, tmp_path):
    assert 'config nowhere.py is not there' in error_of('tools/train.py', 'nowhere.py')
    (tmp_path / 'broken.py').write_text('model = dict(')
    assert 'broken.py cannot be read' in error_of('tools/train.py', tmp_path / 'broken.py')
    (tmp_path / 'file').write_text('')
    assert 'cannot write into' in error_of(
        'tools/train.py', CONFIG, '--work-dir', tmp_path / 'file' / 'work', '--cfg-options', *options
    )
    assert 'it ends in .json (metrics) or .pkl' in error_of('tools/test.py', CONFIG, checkpoint, '--out', 'a.txt')
    for option, message in (
        ('model.backbone.window_size=0', 'window 0 found'),
        ('model.backbone.window_size=[8,8]', 'window_size has 2 values'),
        ('model.decode_head.num_classes=4', 'num_classes is 4, but the train data set has 10 classes'),
        ('model.backbone.arch=gigantic', "unknown SwinV2 arch 'gigantic'"),
    ):
        assert message in error_of('tools/train.py', CONFIG, '--work-dir', tmp_path / 'work', '--cfg-options', *options, option)


def test_a_mismatched_checkpoint_is_refused_by_test_and_predict(error_of, checkpoint, options, tmp_path):
    for tool in (
        ['tools/test.py', CONFIG, checkpoint, '--work-dir', tmp_path],
        ['tools/predict.py', CONFIG, checkpoint, ROOT / 'tests', '--out', tmp_path / 'out'],
    ):
        if 'predict' in tool[0]:
            cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((40, 40, 3), np.uint8))
            tool[3] = tmp_path / 'a.png'
        error = error_of(*tool, '--cfg-options', *options, 'model.decode_head.channels=40', 'model.auxiliary_head=None')
        assert re.search(r'\d+ size mismatches \(decode_head\.\S+ is \(10, 48, .* instead of \(10, 40, ', error)
        assert re.search(r'\d+ unexpected keys \(auxiliary_head', error)


def test_code_in_a_checkpoint_does_not_run(error_of, options, tmp_path):
    torch.save(dict(state_dict={}, meta=Attack(tmp_path / 'marker')), tmp_path / 'evil.pth')
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((40, 40, 3), np.uint8))
    for command in (
        ['tools/predict.py', CONFIG, tmp_path / 'evil.pth', tmp_path / 'a.png', '--out', tmp_path / 'out'],
        ['tools/test.py', CONFIG, tmp_path / 'evil.pth', '--work-dir', tmp_path / 'test', '--cfg-options', *options],
        [
            'tools/train.py',
            CONFIG,
            '--resume',
            tmp_path / 'evil.pth',
            '--work-dir',
            tmp_path / 'train',
            '--cfg-options',
            *options,
        ],
    ):
        assert 'evil.pth holds Python objects whose loading would run code' in error_of(*command)
    assert not (tmp_path / 'marker').exists()


def test_missing_images_and_folders_without_images_are_refused(error_of, checkpoint, tmp_path):
    assert 'nothing.png is not there' in error_of(
        'tools/predict.py', CONFIG, checkpoint, tmp_path / 'nothing.png', '--out', tmp_path
    )
    assert 'holds no image' in error_of('tools/predict.py', CONFIG, checkpoint, tmp_path, '--out', tmp_path)


def test_make_mini_dataset_writes_scenes_and_refuses_zero_images(error_of, tmp_path):
    output = output_of('tools/make_mini_dataset.py', '--out', tmp_path / 'mini', '--train', 3, '--val', 1, '--image-size', 64)
    assert len(list((tmp_path / 'mini').rglob('images/training/*.jpg'))) == 3
    assert re.search(r'colour classifier on them: 0\.\d+', output)
    assert 'at least 1, 1 and 32' in error_of('tools/make_mini_dataset.py', '--out', tmp_path / 'no', '--train', 0)
