"""Predictions as data: what is written, that it says what testing says, and that nothing is lost."""

import json
import os
import re

import cv2
import numpy as np
import pytest
import torch

from mmvitscale.datasets import mini
from mmvitscale.inference import build_model
from tests.helpers.commands import FOREGROUND
from tests.helpers.loaded import load
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.integration

CONFIG = 'swinv2_upernet_mini'
NOISE = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'a.pth'
    torch.save(dict(state_dict=randomise(build_model(load(CONFIG))).state_dict()), path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Images of many kinds at two depths."""
    images = tmp_path / 'images'
    (images / 'sub').mkdir(parents=True)
    cv2.imwrite(str(images / 'cat.png'), NOISE)
    cv2.imwrite(str(images / 'cat.jpg'), NOISE[:40])
    cv2.imwrite(str(images / 'grey.png'), NOISE[..., 0])
    cv2.imwrite(str(images / 'alpha.png'), cv2.cvtColor(NOISE, cv2.COLOR_BGR2BGRA))
    cv2.imwrite(str(images / 'sub/deep.png'), NOISE.astype(np.uint16) * 257)
    (images / 'broken.jpg').write_bytes(b'no image')
    return images


def files(out):
    return sorted(path.relative_to(out).as_posix() for path in out.rglob('*') if path.is_file())


def test_predictions_of_mixed_images_do_not_depend_on_batch_size(run_here, checkpoint, folder, tmp_path):
    outputs = {}
    for size in (1, 3):
        out = outputs[size] = tmp_path / f'out{size}'
        code, logged, err = run_here(
            'tools/predict.py',
            CONFIG,
            checkpoint,
            folder,
            '--out',
            out,
            '--save',
            'labels',
            'json',
            'scores',
            'logits',
            '--batch-size',
            size,
        )
        assert code == 1 and '5 predicted' in logged
        errors = [line for line in err.splitlines() if line.startswith('error: ')]
        assert len(errors) == 1 and 'broken.jpg cannot be read as an image' in errors[0]
    stems = ['alpha', 'cat.jpg', 'cat.png', 'grey', 'sub/deep']
    assert files(outputs[1]) == sorted(
        [
            *(f'{stem}.png' for stem in stems),
            'classes.json',
            'predict.json',
            *(f'labels/{stem}.png' for stem in stems),
            *(f'json/{stem}.json' for stem in stems),
            *(f'{kind}/{stem}.npy' for kind in ('scores', 'logits') for stem in stems),
        ]
    )
    for name in files(outputs[1]):  # batches change nothing
        if name.endswith('.npy'):
            one, three = (np.load(out / name) for out in outputs.values())
            assert np.allclose(one, three, atol=1e-2) and one.shape == (
                10,
                *cv2.imread(str(outputs[1] / 'labels' / (name.split('/', 1)[1].removesuffix('.npy') + '.png'))).shape[:2],
            )
    labels = {stem: cv2.imread(str(outputs[1] / f'labels/{stem}.png'), cv2.IMREAD_UNCHANGED) for stem in stems}
    assert np.array_equal(labels['alpha'], labels['cat.png']) and np.array_equal(labels['sub/deep'], labels['cat.png'])
    assert np.array_equal(labels['cat.png'], np.load(outputs[1] / 'logits/cat.png.npy').argmax(0) + 1)
    assert json.loads((outputs[1] / 'json/sub/deep.json').read_text())['file_name'] == 'sub/deep.png'
    assert cv2.imread(str(outputs[1] / 'cat.png.png')).shape[1] == 90


def test_a_repeated_call_resumes_and_a_different_one_is_refused(run_here, error_of, checkpoint, folder, tmp_path):
    (folder / 'broken.jpg').unlink()
    command = ['tools/predict.py', CONFIG, checkpoint, folder, '--out', tmp_path / 'out', '--save', 'labels']
    assert '5 predicted' in run_here(*command)[1]
    (tmp_path / 'out/labels/grey.png').unlink()
    cv2.imwrite(str(folder / 'cat.jpg'), NOISE[:30])  # has changed since
    later = (tmp_path / 'out/cat.jpg.png').stat().st_mtime + 1
    os.utime(folder / 'cat.jpg', (later, later))
    before = (tmp_path / 'out/alpha.png').stat().st_mtime_ns
    assert '2 predicted' in (logged := run_here(*command)[1]) and '3 were there' in logged
    assert cv2.imread(str(tmp_path / 'out/labels/cat.jpg.png')).shape[0] == 30
    os.utime(folder / 'cat.jpg', (later - 5, later - 5))
    assert (tmp_path / 'out/alpha.png').stat().st_mtime_ns == before
    assert '5 were there' in run_here(*command)[1]
    assert 'its score_thr was 0.3, now 0.5' in error_of(*command, '--score-thr', 0.5)
    (tmp_path / 'other').mkdir()
    cv2.imwrite(str(tmp_path / 'other/grey.png'), NOISE)
    assert 'its source was' in error_of(*command[:3], tmp_path / 'other/grey.png', *command[4:])
    assert 'its config was' in error_of(*command, '--cfg-options', 'model.backbone.window_size=4')
    assert '5 predicted' in run_here(*command, '--score-thr', 0.5, '--overwrite')[1]


def test_files_not_written_by_the_command_are_not_overwritten(error_of, run_here, checkpoint, folder, tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/alpha.png').write_text('mine')
    assert 'is there already and was not written by this command' in error_of(
        'tools/predict.py', CONFIG, checkpoint, folder, '--out', tmp_path / 'out'
    )
    assert (tmp_path / 'out/alpha.png').read_text() == 'mine'
    for out in (folder, folder / 'sub/out'):
        assert 'lies in the input folder' in error_of('tools/predict.py', CONFIG, checkpoint, folder, '--out', out)
    assert 'is there already' in error_of('tools/predict.py', CONFIG, checkpoint, folder / 'cat.png', '--out', folder)
    (folder / 'labels').mkdir()
    cv2.imwrite(str(folder / 'labels/a.png'), NOISE)
    assert "has a folder 'labels', where pictures and saved files would meet" in error_of(
        'tools/predict.py', CONFIG, checkpoint, folder, '--out', tmp_path / 'other', '--save', 'labels'
    )


def test_invalid_predict_options_are_refused_with_the_reason(error_of, checkpoint, folder, tmp_path):
    command = ['tools/predict.py', CONFIG, checkpoint, folder, '--out', tmp_path / 'out']
    assert '--no-pictures found without --save' in error_of(*command, '--no-pictures')
    assert '--batch-size 0 found' in error_of(*command, '--batch-size', 0)
    assert '--tile 64 --overlap 33 found' in error_of(*command, '--tile', 64, '--overlap', 33)
    assert '--overlap 8 found without --tile' in error_of(*command, '--overlap', 8)


def write_video(path, frames):
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 10, frames[0].shape[1::-1])
    for frame in frames:
        video.write(frame)
    video.release()


def test_a_video_gives_a_drawn_video_and_results_for_each_frame(run_here, checkpoint, tmp_path):
    source, out = tmp_path / 'clips', tmp_path / 'out'
    source.mkdir()
    write_video(source / 'a.mp4', [np.full((64, 96, 3), 20 * i, np.uint8) for i in range(7)])
    (source / 'short.avi').write_bytes((source / 'a.mp4').read_bytes()[:300])
    code, logged, err = run_here(
        'tools/predict.py', CONFIG, checkpoint, source, '--out', out, '--save', 'json', 'labels', '--batch-size', 3
    )
    assert code == 1 and '1 predicted' in logged and 'short.avi cannot be read as a video' in err
    video = cv2.VideoCapture(str(out / 'a.mp4'))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 7 and video.get(cv2.CAP_PROP_FPS) == 10
    assert video.read()[1].shape == (64, 96, 3)
    assert files(out / 'json') == [f'a/{i:06d}.json' for i in range(1, 8)]
    assert files(out / 'labels') == [f'a/{i:06d}.png' for i in range(1, 8)]


def test_a_truncated_video_is_reported_and_predicted_up_to_its_end(run_here, checkpoint, monkeypatch, tmp_path):
    write_video(tmp_path / 'a.mp4', [np.full((64, 96, 3), 20 * i, np.uint8) for i in range(7)])
    from mmvitscale.inference import folder as module

    monkeypatch.setattr(module, 'frames_of', lambda path: (10.0, 100, iter([NOISE] * 3)))
    code, _, err = run_here('tools/predict.py', CONFIG, checkpoint, tmp_path / 'a.mp4', '--out', tmp_path / 'out')
    assert code == 1 and 'a.mp4 ends early: 3 of 100 frames could be read, and are predicted' in err
    assert cv2.VideoCapture(str(tmp_path / 'out/a.mp4')).get(cv2.CAP_PROP_FRAME_COUNT) == 3


def test_saved_label_maps_give_the_miou_of_testing(run_here, checkpoint, tmp_path):
    """mmsegmentation's own IoU, on the files."""
    scenes = mini.write_dataset(tmp_path / 'mini', train=1, val=3, size=64) / 'ADEChallengeData2016'
    _, logged, err = run_here(
        'tools/test.py',
        CONFIG,
        checkpoint,
        '--work-dir',
        tmp_path / 'work',
        '--out',
        tmp_path / 'metrics.json',
        '--cfg-options',
        f'data_root={scenes}',
        *FOREGROUND,
    )
    run_here(
        'tools/predict.py',
        CONFIG,
        checkpoint,
        scenes / 'images/validation',
        '--out',
        tmp_path / 'out',
        '--save',
        'labels',
        '--no-pictures',
    )
    from mmseg.evaluation import IoUMetric

    areas = []
    for path in sorted((scenes / 'annotations/validation').glob('*.png')):
        ground_truth, found = (
            torch.from_numpy(cv2.imread(str(p), cv2.IMREAD_UNCHANGED).astype(np.int64))
            for p in (path, tmp_path / 'out/labels' / path.name)
        )
        ground_truth[ground_truth == 0] = 256
        areas.append(IoUMetric.intersect_and_union(found - 1, ground_truth - 1, 10, 255))
    intersect, union, _, _ = (sum(parts) for parts in zip(*areas))
    miou = (100 * intersect / union).nanmean().item()
    assert miou == pytest.approx(json.loads((tmp_path / 'metrics.json').read_text())['mIoU'], abs=0.006)
    assert re.search(r'mIoU: +[\d.]+', logged + err)


def test_a_single_tile_gives_the_prediction_of_the_whole_image(run_here, checkpoint, tmp_path):
    image = tmp_path / 'a.png'
    cv2.imwrite(str(image), NOISE)
    for out, more in (
        ('whole', []),
        ('one', ['--tile', 128]),
        ('tiles', ['--tile', 48, '--overlap', 16, '--batch-size', 2]),
    ):
        code, logged, err = run_here(
            'tools/predict.py', CONFIG, checkpoint, image, '--out', tmp_path / out, '--save', 'labels', 'json', *more
        )
        assert code == 0, err
    whole = cv2.imread(str(tmp_path / 'whole/labels/a.png'), cv2.IMREAD_UNCHANGED)
    one, tiles = (cv2.imread(str(tmp_path / f'{out}/labels/a.tif'), cv2.IMREAD_UNCHANGED) for out in ('one', 'tiles'))
    assert np.array_equal(one, whole) and tiles.shape == whole.shape
    assert json.loads((tmp_path / 'one/json/a.json').read_text()) == json.loads((tmp_path / 'whole/json/a.json').read_text())
