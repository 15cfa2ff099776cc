"""Predictions as data: what is written, that it says what testing says, and that nothing is lost."""

import json
import os
import re

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from mmvitscale.config.embedded import META_KEY, embed_config
from mmvitscale.datasets import mini
from mmvitscale.inference import build_model
from tests.helpers.commands import FOREGROUND, ROOT
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
    by_path = ['tools/predict.py', f'configs/mini/{CONFIG}.py', *command[2:]]
    assert '5 were there' in run_here(*by_path)[1]
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
    (tmp_path / 'out/cat.png').write_text('mine')
    assert 'is there already' in error_of('tools/predict.py', CONFIG, checkpoint, folder / 'cat.png', '--out', tmp_path / 'out')
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
    one, tiles = (np.asarray(Image.open(tmp_path / f'{out}/labels/a.tif')) for out in ('one', 'tiles'))  # with colours
    assert np.array_equal(one, whole) and tiles.shape == whole.shape
    assert json.loads((tmp_path / 'one/json/a.json').read_text()) == json.loads((tmp_path / 'whole/json/a.json').read_text())


def test_no_output_replaces_an_input(error_of, checkpoint, folder, tmp_path):
    before = {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}
    (tmp_path / 'link').symlink_to(folder)
    relative = os.path.relpath(folder, ROOT)
    for image, out in (
        (folder / 'cat.png', folder),
        (tmp_path / 'link/cat.png', folder),
        (folder / 'cat.png', tmp_path / 'link'),
        (folder / 'cat.png', relative),
    ):
        command = ['tools/predict.py', CONFIG, checkpoint, image, '--out', out, '--overwrite']
        assert f'cat.png would replace {image}, which this call reads' in error_of(*command)
    annotations = tmp_path / 'out/coco.json'
    annotations.parent.mkdir()
    annotations.write_text(json.dumps(dict(images=[], categories=[])))
    command = ['tools/predict.py', CONFIG, checkpoint, folder, '--out', tmp_path / 'out', '--overwrite', '--save', 'json']
    assert 'coco.json would replace' in error_of(*command, '--annotations', annotations)
    (tmp_path / 'pictures/json').mkdir(parents=True)
    write_video(tmp_path / 'json.mp4', [NOISE])
    (tmp_path / 'd/labels/a').mkdir(parents=True)  # of a frame
    cv2.imwrite(str(tmp_path / 'd/labels/a/000001.png'), NOISE)
    (tmp_path / 'd/a.mp4').write_bytes((tmp_path / 'json.mp4').read_bytes())
    images = [tmp_path / 'd/a.mp4', tmp_path / 'd/labels/a/000001.png']
    assert '000001.png would replace' in error_of(
        'tools/predict.py', CONFIG, checkpoint, *images, '--out', tmp_path / 'd', '--save', 'labels', '--no-pictures'
    )
    assert {path: path.read_bytes() for path in before} == before


def test_several_images_and_folders_are_one_run(run_here, error_of, checkpoint, folder, tmp_path):
    out, other = tmp_path / 'out', tmp_path / 'other'
    other.mkdir()
    for path in (other / 'cat.png', tmp_path / 'a\\b.png'):
        path.write_bytes((folder / 'cat.png').read_bytes())
    sources = [folder / 'sub', other, folder / 'cat.png', tmp_path / 'link/cat.png', tmp_path / 'a\\b.png', other / 'cat.png']
    (tmp_path / 'link').symlink_to(folder / 'sub')
    (folder / 'sub/cat.png').write_bytes((folder / 'cat.png').read_bytes())

    def command(*images):
        return ['tools/predict.py', CONFIG, checkpoint, *images, '--out', out, '--save', 'json']

    code, logged, err = run_here(*command(*sources))
    assert code == 0 and '6 predicted' in logged, err
    names = ['a\\b', 'images/cat', 'images/sub/cat', 'images/sub/deep', 'link/cat', 'other/cat']
    assert files(out / 'json') == [f'{name}.json' for name in names]
    assert files(out) == sorted(
        [*(f'json/{name}.json' for name in names), *(f'{name}.png' for name in names), 'classes.json', 'predict.json']
    )
    assert json.loads((out / 'json/other/cat.json').read_text())['file_name'] == 'other/cat.png'
    assert '0 predicted' in (logged := run_here(*command(*reversed(sources)))[1]) and '6 were there' in logged
    assert '1 predicted' in run_here(*command(*sources, folder / 'grey.png'))[1]  # one more
    before = (out / 'predict.json').read_text()
    assert 'its source was' in error_of(*command(*sources))  # fewer would lose some from what holds all of them
    assert 'all images and folders in one call' in error_of(*command(tmp_path / 'link'))
    assert (out / 'predict.json').read_text() == before
    assert run_here(*command(tmp_path / 'link'), '--overwrite')[0] == 0
    assert (out / 'predict.json').read_text() != before


def test_a_second_folder_does_not_replace_the_record_of_the_first(run_here, error_of, checkpoint, folder, tmp_path):
    for name in ('one', 'two'):
        (tmp_path / name).mkdir()
        (tmp_path / name / f'{name}.png').write_bytes((folder / 'cat.png').read_bytes())
    command = ['tools/predict.py', CONFIG, checkpoint, tmp_path / 'one', '--out', tmp_path / 'out', '--save', 'labels']
    run_here(*command)
    before = files(tmp_path / 'out')
    assert f'its source was {tmp_path}/one, now {tmp_path}/two' in error_of(*command[:3], tmp_path / 'two', *command[4:])
    assert files(tmp_path / 'out') == before
    code, logged, _ = run_here(*command[:3], tmp_path / 'two', *command[4:], '--overwrite')
    assert code == 0 and '1 predicted' in logged


def test_a_video_and_a_folder_of_its_name_do_not_meet(run_here, checkpoint, tmp_path):
    (tmp_path / 's/clip').mkdir(parents=True)
    cv2.imwrite(str(tmp_path / 's/clip/000001.png'), NOISE[:40])
    write_video(tmp_path / 's/clip.mp4', [np.zeros((64, 96, 3), np.uint8)] * 2)
    command = ['tools/predict.py', CONFIG, checkpoint, tmp_path / 's', '--out', tmp_path / 'out', '--save', 'json']
    assert run_here(*command)[0] == 0
    found = {name: json.loads((tmp_path / 'out/json' / name).read_text())['file_name'] for name in files(tmp_path / 'out/json')}
    assert found == {
        'clip/000001.json': 'clip/000001.png',
        'clip.mp4/000001.json': 'clip.mp4#1',
        'clip.mp4/000002.json': 'clip.mp4#2',
    }
    code, _, err = run_here(*command[:-3], tmp_path / 'tiles', '--tile', 64, '--no-pictures', '--save', 'json')
    assert code == 0, err  # videos are passed over


def test_a_name_that_is_too_long_fails_alone(run_here, checkpoint, folder, tmp_path):
    images = tmp_path / 'long'
    images.mkdir()
    for name in ('n' * 251 + '.png', 'ü' * 125 + '.png', 'x' * 250 + '.png', 'ok.png'):
        (images / name).write_bytes((folder / 'cat.png').read_bytes())
    out = tmp_path / 'out'
    code, logged, err = run_here('tools/predict.py', CONFIG, checkpoint, images, '--out', out, '--save', 'json')
    assert code == 1 and '3 predicted' in logged
    (line,) = [line for line in err.splitlines() if line.startswith('error: ')]
    assert 'nnn.png cannot be predicted' in line and 'has 256 bytes, but 255 is the most here' in line
    assert len(files(out / 'json')) == 3


def test_transparent_pixels_are_of_no_class(run_here, checkpoint, tmp_path):
    image = cv2.cvtColor(NOISE, cv2.COLOR_BGR2BGRA)
    image[:, :40, 3] = 0
    cv2.imwrite(str(tmp_path / 'a.png'), image)
    for out, more in (('whole', []), ('tiles', ['--tile', 128])):
        command = [
            'tools/predict.py',
            CONFIG,
            checkpoint,
            tmp_path / 'a.png',
            '--out',
            tmp_path / out,
            '--save',
            'labels',
            'json',
        ]
        assert run_here(*command, *more)[0] == 0
    whole, tiled = (np.asarray(Image.open(tmp_path / name)) for name in ('whole/labels/a.png', 'tiles/labels/a.tif'))
    assert np.array_equal(whole == 255, image[..., 3] == 0) and np.array_equal(whole, tiled)
    assert (tmp_path / 'whole/json/a.json').read_text() == (tmp_path / 'tiles/json/a.json').read_text()
    assert sum(json.loads((tmp_path / 'whole/json/a.json').read_text())['shares'].values()) == pytest.approx(1)


PURE = """
from mmengine.config import read_base

with read_base():
    from .base import *

from mmcv.transforms import LoadImageFromFile, Resize
from mmengine.dataset import ConcatDataset, DefaultSampler
from mmseg.datasets import BaseSegDataset, LoadAnnotations, PackSegInputs
from mmseg.evaluation import IoUMetric
from mmseg.models import EncoderDecoder, FCNHead, SegDataPreProcessor
from mmseg.models.losses import CrossEntropyLoss

from mmvitscale.models.swin_v2.backbone import SwinTransformerV2

preprocessor = dict(type=SegDataPreProcessor, mean=[0, 0, 0], std=[9, 9, 9], pad_val=0, seg_pad_val=255, size=(64, 64))
arch = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))
backbone = dict(type=SwinTransformerV2, arch=arch, window_size=4)
loss = dict(type=CrossEntropyLoss, avg_non_ignore=True)
norm = dict(type='BN')
head = dict(type=FCNHead, in_channels=64, in_index=3, channels=8, num_classes=3, norm_cfg=norm, loss_decode=loss, num_convs=1)
model = dict(
    type=EncoderDecoder,
    data_preprocessor=preprocessor,
    backbone=backbone,
    decode_head=head,
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=Resize, scale=(64, 64), keep_ratio=True),
    dict(type=LoadAnnotations),
    dict(type=PackSegInputs),
]
part = dict(
    type=BaseSegDataset,
    data_root=DATA,
    data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
    img_suffix='.jpg',
    seg_map_suffix='.png',
    reduce_zero_label=True,
    pipeline=pipeline,
)
sampler = dict(type=DefaultSampler, shuffle=False)
test_dataloader = dict(sampler=sampler, dataset=dict(type=ConcatDataset, datasets=[part, part]), num_workers=0)
train_dataloader = test_dataloader
test_evaluator = dict(type=IoUMetric)
test_cfg = dict()
"""


def test_configs_in_pure_python_and_concatenated_test_sets_are_predicted_with(run_here, tmp_path):
    from mmvitscale.config.loading import load_test_config
    from mmvitscale.inference.calibration_images import training_images
    from mmvitscale.inference.evaluated_images import EvaluatedImages

    scenes = mini.write_dataset(tmp_path / 'mini', train=1, val=1, size=64) / 'ADEChallengeData2016'
    (tmp_path / 'base.py').write_text(f'DATA = {str(scenes)!r}\n')
    (tmp_path / 'pure.py').write_text(PURE)
    cfg = load_test_config(tmp_path / 'pure.py')
    model = randomise(build_model(cfg))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'a.pth')  # neither here nor there do classes have names
    images = sorted((scenes / 'images/validation').glob('*'))
    for out, more in (('whole', []), ('tiles', ['--tile', 64])):
        command = ['tools/predict.py', tmp_path / 'pure.py', tmp_path / 'a.pth', *images, '--out', tmp_path / out]
        code, _, err = run_here(*command, '--save', 'labels', 'json', *more)
        assert code == 0, err
        content = json.loads((tmp_path / out / 'json' / f'{images[0].stem}.json').read_text())
        assert set(content['shares']) <= {'class_0', 'class_1', 'class_2'}
        entries = json.loads((tmp_path / out / 'classes.json').read_text())
        assert [entry['value'] for entry in entries] == [1, 2, 3]  # the data set leaves 0 out
    torch.save(dict(state_dict=model.state_dict(), meta={META_KEY: embed_config(cfg)}), tmp_path / 'own.pth')
    (tmp_path / 'pure.py').unlink()
    command = ['tools/predict.py', tmp_path / 'own.pth', *images, '--out', tmp_path / 'alone', '--save', 'labels']
    assert run_here(*command)[0] == 0
    for image in images:
        found = [cv2.imread(str(tmp_path / out / f'labels/{image.stem}.png'), -1) for out in ('whole', 'alone')]
        assert np.array_equal(*found)
    evaluated = EvaluatedImages(cfg, model)
    assert len(evaluated) == 2 and 'pred_sem_seg' in evaluated.one(0)[2]
    assert training_images(cfg, model, 1, (64, 64))[0].shape == (1, 3, 64, 64)
