"""The commands on detection configs, on a handful of small scenes."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmvitscale.datasets import mini
from tests.helpers.commands import FOREGROUND, output_of
from tests.helpers.shared import made_once

pytestmark = pytest.mark.integration

MASK_RCNN, RETINANET = 'configs/mini/swinv2_mask_rcnn_mini.py', 'configs/mini/swinv2_retinanet_mini.py'
OPTIONS = [
    'train_cfg.max_iters=2',
    'train_cfg.val_interval=2',
    'train_dataloader.batch_size=2',
    'default_hooks.checkpoint.interval=2',
    'default_hooks.logger.interval=1',
    'model.test_cfg.rcnn.score_thr=0.0',
    *FOREGROUND,
]


@pytest.fixture(scope='session')
def scenes(tmp_path_factory):
    return mini.write_dataset(tmp_path_factory.mktemp('data') / 'mini', train=4, val=2, size=96) / 'coco'


def change(scenes, folder, split, edit):
    """A copy of the scenes whose annotation file of the split was edited."""
    shutil.copytree(scenes, folder)
    path = folder / f'annotations/instances_{split}2017.json'
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return folder


@pytest.fixture(scope='session')
def options(scenes):
    return [*OPTIONS, f'data_root={scenes}']


@pytest.fixture(scope='session')
def trained(tmp_path_factory, options):
    """The work dir of a Mask R-CNN and the output of its training."""

    def train(folder):
        output = output_of('tools/train.py', MASK_RCNN, '--work-dir', folder / 'work', '--cfg-options', *options)
        (folder / 'output.txt').write_text(output)

    folder = made_once(tmp_path_factory, 'trained_detector', train)
    return folder / 'work', (folder / 'output.txt').read_text()


def average_precisions(output):
    """The last box and mask APs in a log."""
    return [re.findall(rf'{kind}_mAP_copypaste: (.*)', output)[-1] for kind in ('bbox', 'segm')]


def test_testing_gives_the_aps_of_training_and_draws_pictures(trained, options, run_here, tmp_path):
    work_dir, output = trained
    assert 'pretrained window' in output
    code, logged, err = run_here(
        'tools/test.py',
        MASK_RCNN,
        work_dir / 'iter_2.pth',
        '--work-dir',
        tmp_path,
        '--show-dir',
        tmp_path / 'pictures',
        '--out',
        tmp_path / 'metrics.json',
        '--cfg-options',
        *options,
    )
    assert code == 0 and average_precisions(logged + err) == average_precisions(output)
    assert {'coco/bbox_mAP_50', 'coco/segm_mAP_50'} <= set(json.loads((tmp_path / 'metrics.json').read_text()))
    picture = cv2.imread(str(tmp_path / 'pictures/scene_00000.png'))
    image = cv2.imread(str(Path(options[-1].split('=')[1]) / 'val2017/scene_00000.jpg'))
    assert picture.shape[1] == 3 * 96 and np.array_equal(picture[:96, :96], image)
    assert not np.array_equal(picture[:96, 96:192], image)  # the ground truth's boxes and masks


def test_test_time_augmentation_reports_box_and_mask_aps(trained, options, run_here, tmp_path):
    code, _, err = run_here(
        'tools/test.py',
        MASK_RCNN,
        trained[0] / 'iter_2.pth',
        '--work-dir',
        tmp_path,
        '--tta',
        '--out',
        tmp_path / 'metrics.json',
        '--cfg-options',
        *options,
    )
    assert code == 0, err
    assert {'coco/bbox_mAP_50', 'coco/segm_mAP_50'} <= set(json.loads((tmp_path / 'metrics.json').read_text()))


def test_predictions_are_drawn_above_the_score(trained, scenes, run_here, tmp_path):
    arguments = [MASK_RCNN, trained[0] / 'iter_2.pth', scenes / 'val2017']
    cfg_options = ['--cfg-options', OPTIONS[-len(FOREGROUND) - 1]]
    for name, score in (('all', 0), ('none', 1.1)):
        code, _, err = run_here('tools/predict.py', *arguments, '--out', tmp_path / name, '--score-thr', score, *cfg_options)
        assert code == 0, err
    image = cv2.imread(str(scenes / 'val2017/scene_00001.jpg'))
    everything, nothing = (cv2.imread(str(tmp_path / name / 'scene_00001.png')) for name in ('all', 'none'))
    assert np.array_equal(nothing, image)
    assert everything.shape[0] > 96 and not np.array_equal(everything[:96], image)


def test_saved_coco_results_give_the_aps_of_testing(trained, scenes, options, run_here, tmp_path):
    """COCO's own evaluation, on the file."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    ground_truth, checkpoint = scenes / 'annotations/instances_val2017.json', trained[0] / 'iter_2.pth'
    run_here(
        'tools/test.py',
        MASK_RCNN,
        checkpoint,
        '--work-dir',
        tmp_path,
        '--out',
        tmp_path / 'metrics.json',
        '--cfg-options',
        *options,
    )
    code, _, err = run_here(
        'tools/predict.py',
        MASK_RCNN,
        checkpoint,
        scenes / 'val2017',
        '--out',
        tmp_path / 'out',
        '--save',
        'json',
        '--no-pictures',
        '--annotations',
        ground_truth,
        '--batch-size',
        2,
        '--cfg-options',
        *options,
    )
    assert code == 0, err
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    coco = COCO(str(ground_truth))
    found = coco.loadRes(str(tmp_path / 'out/coco_results.json'))
    for kind in ('bbox', 'segm'):
        evaluation = COCOeval(coco, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        expected = [metrics[f'coco/{kind}_mAP{name}'] for name in ('', '_50', '_75')]
        assert evaluation.stats[:3].tolist() == pytest.approx(expected, abs=1e-3)
    assert len(found.anns) > 2


def test_an_image_without_objects_trains_and_is_tested(scenes, run_here, tmp_path):
    """RetinaNet, with test-time augmentation."""

    def clear(content):
        content['annotations'] = [item for item in content['annotations'] if item['image_id'] != 1]

    data = change(change(scenes, tmp_path / 'a', 'train', clear), tmp_path / 'b', 'val', clear)
    options = [
        *OPTIONS,
        f'data_root={data}',
        'train_dataloader.dataset.filter_cfg.filter_empty_gt=False',
        'train_dataloader.batch_size=1',
        'train_cfg.max_iters=4',
        'train_cfg.val_interval=4',
    ]
    options[options.index('model.test_cfg.rcnn.score_thr=0.0')] = 'model.test_cfg.score_thr=0.0'
    code, logged, err = run_here('tools/train.py', RETINANET, '--work-dir', tmp_path / 'work', '--cfg-options', *options)
    assert code == 0 and 'instances_train2017.json: 1 of 4 images have no object' in err
    assert re.findall(r'Iter\(train\) \[(\d)/4\].* loss: [\d.]+ ', logged + err) == list('1234')
    code, logged, err = run_here(
        'tools/test.py',
        RETINANET,
        tmp_path / 'work/iter_2.pth',
        '--work-dir',
        tmp_path / 'work',
        '--tta',
        '--cfg-options',
        *options,
    )
    assert code == 0 and 'bbox_mAP_copypaste' in logged + err


# Bad input: one line that says what was found, what is expected and what to do.


def test_invalid_annotation_files_are_refused_with_the_reason(error_of, scenes, options, tmp_path):

    def error_with(split, edit, *more):
        folder = tmp_path / f'{len(list(tmp_path.iterdir()))}'
        data = change(scenes, folder, split, edit)
        return error_of(
            'tools/train.py',
            MASK_RCNN,
            '--work-dir',
            tmp_path / 'w',
            '--cfg-options',
            *options[:-1],
            f'data_root={data}',
            *more,
        )

    assert 'no list of categories' in error_with('train', lambda c: c.pop('categories'))
    assert "1 of the config's 6 classes are not among them (disc)" in error_with(
        'val', lambda c: c['categories'][0].update(name='disk')
    )
    assert '1 of 4 images' in error_with('train', lambda c: c['images'][0].update(file_name='gone.jpg'))
    assert 'have no segmentation' in error_with('train', lambda c: [item.pop('segmentation') for item in c['annotations']])
    assert 'model.roi_head.bbox_head.num_classes is 7, but the train data set has 6 classes (disc, square' in error_with(
        'train', lambda c: None, 'model.roi_head.bbox_head.num_classes=7'
    )
    assert 'val_evaluator reads nowhere.json, but the val data set' in error_with(
        'train', lambda c: None, 'val_evaluator.ann_file=nowhere.json'
    )
    path = tmp_path / 'broken/annotations/instances_train2017.json'
    shutil.copytree(scenes, tmp_path / 'broken')
    path.write_text('{')
    broken = [*options[:-1], f'data_root={tmp_path}/broken']
    assert 'instances_train2017.json is not JSON' in error_of('tools/train.py', MASK_RCNN, '--cfg-options', *broken)
    path.unlink()
    assert 'instances_train2017.json is not there' in error_of('tools/train.py', MASK_RCNN, '--cfg-options', *broken)
    assert not (tmp_path / 'w').exists()


def test_a_missing_coco_dataset_is_refused_with_how_to_get_it(error_of, tmp_path):
    error = error_of('tools/train.py', 'configs/swinv2_mask_rcnn_coco.py', '--cfg-options', f'data_root={tmp_path}/coco')
    assert f'{tmp_path}/coco/train2017 is not there; unpack train2017, val2017 and annotations of COCO 2017' in error


def test_missing_mmcv_operators_are_reported_with_how_to_get_them(error_of, monkeypatch, scenes, options, trained, tmp_path):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'mmcv._ext' else find_spec(name))
    for command in (
        ['tools/train.py', MASK_RCNN, '--cfg-options', *options],
        ['tools/test.py', RETINANET, 'c.pth', '--cfg-options', *options],
        ['tools/predict.py', MASK_RCNN, trained[0] / 'iter_2.pth', scenes / 'val2017', '--out', tmp_path],
        ['tools/train.py', 'configs/swinv2_mask2former_ade20k.py'],
    ):
        error = error_of(*command)
        assert 'needs the compiled operators of mmcv (NMS, RoIAlign)' in error and 'tools/install_mmcv_ops.py' in error


def test_predictions_are_saved_in_formats_of_annotation_tools(trained, scenes, run_here, tmp_path):
    """Each holds the boxes of at least --score-thr; those with a place for masks the masks; interrupted calls go on."""
    from mmvitscale.datasets.formats.outlines import mask_of
    from mmvitscale.datasets.formats.registry import read_dataset

    work_dir, _ = trained
    formats = ('yolo', 'voc', 'labelme', 'cvat', 'label-studio', 'coco')
    images = scenes / 'val2017'
    command = ['tools/predict.py', MASK_RCNN, work_dir / 'iter_2.pth', images, '--no-pictures']
    options = ['--cfg-options', f'data_root={scenes}', 'model.test_cfg.rcnn.score_thr=0.0']
    assert run_here(*command, '--out', tmp_path / 'first', '--save', 'json', *options)[0] == 0
    contents = [json.loads(file.read_text()) for file in sorted((tmp_path / 'first/json').glob('*.json'))]
    least = sorted(entry['score'] for content in contents for entry in content['annotations'])[-9]
    command += ['--out', tmp_path / 'out', '--save', *formats, '--score-thr', least, *options]
    code, printed, errors = run_here(*command)
    assert code == 0, errors
    assert f'2 images, objects of a score of {least:g} or more' in printed
    expected = {
        content['file_name']: [entry for entry in content['annotations'] if entry['score'] >= least] for content in contents
    }
    assert sum(map(len, expected.values())) == 9
    for name in formats:
        folder = tmp_path / 'out' / name
        for image in images.iterdir():  # what a user does who goes on with them
            target = folder / 'images' / image.name
            target.parent.mkdir(exist_ok=True)
            shutil.copy(image, target)
        found = {image.path.name: image for image in read_dataset(folder).images}
        for image, entries in expected.items():
            objects = found[image].objects
            assert [item.category for item in objects] == [entry['category'] for entry in entries]
            if name != 'labelme':  # in its description
                assert None not in [item.score for item in objects], name
                assert np.allclose([item.score for item in objects], [entry['score'] for entry in entries], atol=1e-5)
            for item, entry in zip(objects, entries) if name != 'voc' else ():
                from pycocotools import mask as coco

                assert (mask_of(item, 96, 96) == coco.decode(entry['segmentation'])).all(), name
    assert run_here(*command)[0] == 0


def test_predictions_become_detections_of_supervision(trained, scenes, mmdet_scope):
    supervision = pytest.importorskip('supervision')
    from mmvitscale.config.loading import load_test_config
    from mmvitscale.inference import Predictor

    options = {'data_root': str(scenes), 'model.test_cfg.rcnn.score_thr': 0.0}
    predictor = Predictor(load_test_config(MASK_RCNN, options), str(trained[0] / 'iter_2.pth'))
    image = next((scenes / 'val2017').iterdir())
    sample = predictor(image)
    found = predictor.detections(image, score_thr=0.0)
    assert isinstance(found, supervision.Detections) and len(found) == len(sample.pred_instances) > 0
    assert np.allclose(found.xyxy, sample.pred_instances.bboxes) and found.mask.shape[1:] == (96, 96)
    assert list(found.data['class_name']) == [predictor.dataset_meta['classes'][i] for i in sample.pred_instances.labels]
    least = float(found.confidence.mean())
    assert 0 < len(predictor.detections(image, score_thr=least)) < len(found)
