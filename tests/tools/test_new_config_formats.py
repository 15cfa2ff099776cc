"""From the data of any annotation tool to a config: the same whatever the tool."""

import base64
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from mmvitscale.config.loading import load_config
from mmvitscale.datasets import mini
from mmvitscale.datasets.formats.registry import FORMATS, convert_dataset
from tests.helpers.commands import FOREGROUND

pytestmark = pytest.mark.integration

OTHERS = [name for name in FORMATS if name not in ('coco', 'masks')]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """The scenes in every format."""
    place = tmp_path_factory.mktemp('data')
    scenes = mini.write_dataset(place / 'mini', train=8, val=2, size=64)
    for name in FORMATS:
        convert_dataset(scenes / 'coco', place / name, name)
    return place


def delivered(config, split):
    """What the data set of a config gives for each image: its file, and its objects or label map."""
    cfg = load_config(str(config))
    init_default_scope(cfg.default_scope)
    described = cfg[f'{split}_dataloader'].dataset
    described.pipeline = []
    dataset = DATASETS.build(described)
    found = []
    for item in (dataset.get_data_info(i) for i in range(len(dataset))):
        content = Path(item['img_path']).read_bytes()
        if 'instances' in item:
            found.append((content, [(one['bbox_label'], np.round(one['bbox'], 6).tolist()) for one in item['instances']]))
        else:
            found.append((content, np.array(Image.open(item['seg_map_path']))))
    return found, dataset.metainfo['classes']


def new_config(run_here, *arguments):
    code, printed, errors = run_here('tools/new_config.py', *arguments)
    assert code == 0, errors
    return printed


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
@pytest.mark.parametrize('format', OTHERS)
def test_the_config_and_what_it_delivers_are_those_of_coco(format, task, data, run_here, tmp_path):
    if (format, task) == ('voc', 'segmentation'):
        pytest.skip('has masks of its own, in which later objects hide earlier ones')
    for name in ('coco', format):
        (tmp_path / name).mkdir()
        new_config(run_here, '--data', data / name, '--task', task, '--out', tmp_path / name / 'own.py')
    texts = [(tmp_path / name / 'own.py').read_text().splitlines() for name in ('coco', format)]
    paths = ('ann_file', 'data_root =', '# ', 'data_prefix', 'seg_map_path')
    plain = [[line for line in lines if not any(word in line for word in paths)] for lines in texts]
    assert plain[0] == plain[1] and len(plain[0]) > 15
    for split in ('train', 'val'):
        (expected, classes), (found, own) = (delivered(tmp_path / name / 'own.py', split) for name in ('coco', format))
        assert own == classes and len(found) == len(expected)
        by_content = dict(found)
        for content, objects in expected:
            if task == 'segmentation':
                assert (by_content[content] == objects).all()
            else:
                assert by_content[content] == objects


def test_nothing_is_written_into_the_data_and_a_config_within_them_is_no_second_format(data, run_here, tmp_path):
    shutil.copytree(data / 'yolo', tmp_path / 'yolo')
    before = sorted(tmp_path.joinpath('yolo').rglob('*'))
    new_config(run_here, '--data', tmp_path / 'yolo', '--out', tmp_path / 'own.py')
    assert sorted(tmp_path.joinpath('yolo').rglob('*')) == before
    for _ in range(2):
        new_config(run_here, '--data', tmp_path / 'yolo', '--out', tmp_path / 'yolo/own.py', '--overwrite')


def test_images_within_annotation_files_are_written_beside_the_config(data, run_here, tmp_path):
    shutil.copytree(data / 'labelme', tmp_path / 'labelme')
    for file in (tmp_path / 'labelme').rglob('*.json'):
        content = json.loads(file.read_text())
        image = file.parent / content['imagePath']
        content['imageData'] = base64.b64encode(image.read_bytes()).decode()
        file.write_text(json.dumps(content))
        image.unlink()
    for task in ('detection', 'segmentation'):
        new_config(run_here, '--data', tmp_path / 'labelme', '--task', task, '--out', tmp_path / f'{task}.py')
        new_config(run_here, '--data', data / 'labelme', '--task', task, '--out', tmp_path / f'{task}_files.py')
        one, other = (delivered(tmp_path / f'{name}.py', 'train')[0] for name in (task, f'{task}_files'))
        assert len(one) == len(other) == 8
        for (content, found), (expected_content, expected) in zip(one, other):
            assert content == expected_content and np.array_equal(np.array(found, object), np.array(expected, object))


def test_invalid_entries_are_refused_or_left_out_and_listed(data, run_here, error_of, tmp_path):
    shutil.copytree(data / 'yolo', tmp_path / 'yolo')
    file = next(
        path for path in sorted((tmp_path / 'yolo/train/labels').glob('*.txt')) if len(path.read_text().split('\n')) > 3
    )
    lines = file.read_text().splitlines()
    file.write_text('\n'.join(['99 .5 .5 .1 .1', *lines[1:], '0 .5 nan .1 .1']))
    command = ['--data', tmp_path / 'yolo', '--task', 'detection', '--out', tmp_path / 'own.py']
    assert re.search(f'{file}, line 1, has the class 99.*1 more entries', error_of('tools/new_config.py', *command))
    assert not (tmp_path / 'own.py').exists()
    printed = new_config(run_here, *command, '--skip-invalid')
    assert '2 invalid entries are left out, listed in own_invalid.txt' in printed and f'{file}, line 1,' in printed
    assert len((tmp_path / 'own_invalid.txt').read_text().splitlines()) == 3
    new_config(run_here, *command, '--skip-invalid', '--overwrite')
    content = json.loads((tmp_path / 'own_train.json').read_text())
    assert (
        len(content['annotations'])
        == sum(len(path.read_text().splitlines()) for path in (tmp_path / 'yolo/train/labels').glob('*.txt')) - 2
    )


def test_options_of_the_training_stand_in_the_config(data, run_here, tmp_path):
    options = ['--ema', '--early-stop', '8', '--track', 'tensorboard', '--batch-size', '2']
    new_config(run_here, '--data', data / 'yolo', '--out', tmp_path / 'own.py', *options)
    cfg = load_config(str(tmp_path / 'own.py'))
    kinds = [hook.type for hook in cfg.custom_hooks]
    assert 'EMAHook' in kinds and 'mmvitscale.EarlyStoppingHook' in kinds and cfg.train_dataloader.batch_size == 2
    assert any('Tensorboard' in backend.type for backend in cfg.visualizer.vis_backends)
    assert cfg.train_cfg.max_iters // cfg.train_cfg.val_interval >= 32


def test_a_yaml_file_that_leads_to_images_elsewhere_is_followed(data, run_here, tmp_path):
    """As people keep them: the file of a project, the images on another disk."""
    shutil.copytree(data / 'yolo', tmp_path / 'disk/scenes')
    (tmp_path / 'project').mkdir()
    text = (tmp_path / 'disk/scenes/data.yaml').read_text()
    (tmp_path / 'disk/scenes/data.yaml').unlink()
    (tmp_path / 'project/scenes.yaml').write_text(f'path: {tmp_path}/disk/scenes\n{text}')
    for task in ('detection', 'segmentation'):
        out = tmp_path / f'project/{task}.py'
        new_config(run_here, '--data', tmp_path / 'project/scenes.yaml', '--task', task, '--out', out)
        assert len(delivered(out, 'train')[0]) == 8 and len(delivered(out, 'val')[0]) == 2


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_what_stands_beside_a_config_is_asked_for_by_its_own_key(task, data, run_here, error_of, tmp_path):
    """On another machine: data_root does not move it. The advice, followed, works."""
    (tmp_path / 'here').mkdir()
    new_config(run_here, '--data', data / 'yolo', '--task', task, '--out', tmp_path / 'here/own.py')
    (tmp_path / 'here').rename(tmp_path / 'there')
    command = [
        tmp_path / 'there/own.py',
        '--work-dir',
        tmp_path / 'work',
        '--cfg-options',
        'train_cfg.max_iters=1',
        *FOREGROUND,
    ]
    for _ in range(8):
        code, _, errors = run_here('tools/train.py', *command)
        if code == 0:
            break
        key, place = re.search(r'(\S+here/\S+) is not there; bring it along.*?--cfg-options (.*)', errors).group(2, 1)
        moved = place.replace(str(tmp_path / 'here'), str(tmp_path / 'there'))
        command += [option.replace('=PATH', f'={moved}') for option in key.split()]
    assert code == 0, errors
