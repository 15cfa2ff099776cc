"""Annotations stay with their images, classes with their numbers, and files of users where they are."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmvitscale.autoconfig.inspect_dataset import inspect_dataset
from mmvitscale.autoconfig.propose import propose_config
from mmvitscale.datasets.formats.annotations import AnnotatedDataset, AnnotatedImage, AnnotatedObject, Entries
from mmvitscale.datasets.formats.outlines import mask_of
from mmvitscale.datasets.formats.registry import convert_dataset, read_dataset, write_dataset
from mmvitscale.errors import InputError

pytestmark = pytest.mark.integration

BOX = AnnotatedObject('cat', (2.0, 2.0, 10.0, 12.0))


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((24, 32, 3), value, np.uint8)).save(path)
    return path


def dataset(root, names, split=None, objects=(BOX,)):
    """Images of these names, each with the objects."""
    images = [
        AnnotatedImage(picture(root / name, i), name, 24, 32, [replace(item) for item in objects], split)
        for i, name in enumerate(names)
    ]
    return AnnotatedDataset(root, ['cat', 'dog'], images)


def labelme(file, image_path, label='cat'):
    shape = dict(label=label, points=[[2, 2], [10, 12]], shape_type='rectangle', group_id=None)
    file.parent.mkdir(parents=True, exist_ok=True)
    content = dict(shapes=[shape], imagePath=image_path, imageData=None, imageHeight=24, imageWidth=32)
    file.write_text(json.dumps(content))


def number_masks(root, values, suffix='.jpg'):
    for i, value in enumerate(values):
        picture(root / f'images/{i}{suffix}', i)
        mask = np.full((24, 32), value[0], np.uint8)
        mask[:12] = value[1]
        (root / 'masks').mkdir(exist_ok=True)
        Image.fromarray(mask).save(root / f'masks/{i}.png')


def test_numbers_of_masks_mean_the_same_when_invalid_entries_are_left_out(tmp_path):
    number_masks(tmp_path, [(0, 1), (1, 2), (0, 2)])
    plain, skipping = (inspect_dataset(tmp_path, classes=['cat', 'dog'], skip_invalid=skip) for skip in (False, True))
    assert plain.classes == skipping.classes == ['cat', 'dog'] and not skipping.invalid
    assert plain.lines[2] == skipping.lines[2]
    maps = skipping.splits['train'].label_maps
    assert sorted(np.unique(maps['images/1.jpg']()).tolist()) == [0, 1]
    assert sorted(np.unique(maps['images/0.jpg']()).tolist()) == [0, 255]


def test_images_of_several_kinds_have_their_masks(tmp_path):
    number_masks(tmp_path, [(0, 1), (1, 2)])
    picture(tmp_path / 'images/9.png', 9)
    Image.fromarray(np.eye(24, 32, dtype=np.uint8)).save(tmp_path / 'masks/9.png')
    found = inspect_dataset(tmp_path)
    assert sorted(found.splits['train'].names) == ['images/0.jpg', 'images/1.jpg', 'images/9.png']


def test_an_empty_line_among_names_is_no_name_less(tmp_path):
    number_masks(tmp_path, [(0, 1), (1, 2)])
    (tmp_path / 'classes.txt').write_text('ground\n\nsea\n')
    with pytest.raises(InputError, match=r'classes.txt, line 2, is empty'):
        inspect_dataset(tmp_path)


def test_files_of_the_user_are_never_replaced(tmp_path):
    number_masks(tmp_path / 'D', [(0, 1), (1, 2)])
    (tmp_path / 'D/masks').rename(tmp_path / 'D/train_masks')
    (tmp_path / 'D/images').rename(tmp_path / 'D/train')
    before = {path: path.read_bytes() for path in (tmp_path / 'D').rglob('*.*')}
    for overwrite in (False, True):
        try:
            propose_config(tmp_path / 'D', tmp_path / 'D/train.py', skip_invalid=True, overwrite=overwrite)
        except InputError as error:
            assert 'is there already' in str(error)
    write_dataset(dataset(tmp_path / 'E', ['images/1.png', 'images/2.png']), tmp_path / 'F', 'coco')
    with pytest.raises(InputError, match='was not written by this command'):
        convert_dataset(tmp_path / 'F', tmp_path / 'F/images', 'yolo', overwrite=True, copy_images=False)
    assert {path: path.read_bytes() for path in before} == before
    assert len(list((tmp_path / 'F/images').iterdir())) == 2


def test_a_config_written_twice_into_the_data_reads_the_data_twice(tmp_path):
    for i in range(4):
        picture(tmp_path / f'{i}.png', i)
        labelme(tmp_path / f'{i}.json', f'{i}.png', 'cat' if i % 2 else 'dog')
    texts = []
    for _ in range(2):
        propose_config(tmp_path, tmp_path / 'own.py', task='segmentation', overwrite=True)
        texts.append((tmp_path / 'own.py').read_text())
    assert texts[0] == texts[1] and "'cat', 'dog'" in texts[0]


@pytest.mark.parametrize('format', ['coco', 'labelme', 'voc'])
def test_a_missing_image_is_not_replaced_by_one_of_its_name(format, tmp_path):
    """In another split, or another folder."""
    both = dataset(tmp_path / 'images', ['train/1.png', 'train/2.png'], 'train')
    both.images += dataset(tmp_path / 'images', ['val/1.png', 'val/2.png'], 'val').images
    if format == 'voc':  # as Roboflow lays it out
        for image in both.images:
            folder = tmp_path / 'data' / image.split
            picture(folder / image.path.name)
            name, box = (
                image.path.name,
                ''.join(f'<{key}>{v}</{key}>' for key, v in zip(('xmin', 'ymin', 'xmax', 'ymax'), BOX.box)),
            )
            item = f'<object><name>cat</name><bndbox>{box}</bndbox></object>'
            text = f'<annotation><filename>{name}</filename>{item}</annotation>'
            (folder / name).with_suffix('.xml').write_text(text)
    else:
        write_dataset(both, tmp_path / 'data', format)
    (tmp_path / 'data/train/2.png').unlink()
    with pytest.raises(InputError, match='2.png'):
        read_dataset(tmp_path / 'data')
    entries = Entries(skip_invalid=True)
    found = read_dataset(tmp_path / 'data', entries=entries)
    assert [(image.split, len(image.objects)) for image in found.images] == [('train', 1), ('val', 1), ('val', 1)]
    assert any('2.png' in line for line in entries.invalid)


def test_frames_of_two_tasks_have_the_same_names(tmp_path):
    for task in ('task1', 'task2'):
        write_dataset(dataset(tmp_path / task, ['images/0.png', 'images/1.png']), tmp_path / 'data' / task, 'cvat')
    found = read_dataset(tmp_path / 'data')
    assert len({image.path for image in found.images}) == 4


def test_an_image_that_a_coco_file_lists_twice_has_the_objects_of_both(tmp_path):
    write_dataset(dataset(tmp_path / 'D', ['1.png', '2.png']), tmp_path / 'coco', 'coco')
    file = tmp_path / 'coco/annotations.json'
    content = json.loads(file.read_text())
    content['images'][1]['file_name'] = content['images'][0]['file_name']
    file.write_text(json.dumps(content))
    convert_dataset(tmp_path / 'coco', tmp_path / 'yolo', 'yolo')
    assert [len(image.objects) for image in read_dataset(tmp_path / 'yolo').images] == [2]


def test_paths_with_dots_lead_to_the_image_itself(tmp_path):
    for i in range(3):
        picture(tmp_path / f'images/{i}.png', i)
        labelme(tmp_path / f'json/{i}.json', rf'..\images\{i}.png')
    found = read_dataset(tmp_path)
    assert [image.name for image in found.images] == ['images/0.png', 'images/1.png', 'images/2.png'] and not found.notes
    with pytest.raises(InputError, match='give the folder that holds both'):
        read_dataset(tmp_path / 'json')


def test_predicted_images_without_objects_are_no_annotations_in_label_studio(tmp_path):
    scored = replace(BOX, score=0.5)
    found = dataset(tmp_path / 'D', ['1.png', '2.png', '3.png'], objects=[scored])
    found.images[1].objects = []
    write_dataset(found, tmp_path / 'out', 'label-studio')
    tasks = json.loads((tmp_path / 'out/tasks.json').read_text())
    assert all('predictions' in task and 'annotations' not in task for task in tasks)
    assert [len(image.objects) for image in read_dataset(tmp_path / 'out').images] == [1, 0, 1]


def test_a_task_of_several_images_is_refused_unless_its_regions_say_which(tmp_path):
    write_dataset(dataset(tmp_path / 'D', ['1.png', '2.png']), tmp_path / 'out', 'label-studio')
    file = tmp_path / 'out/tasks.json'
    tasks = json.loads(file.read_text())
    tasks[0]['data'] = dict(thumb=tasks[1]['data']['image'], image=tasks[0]['data']['image'])
    file.write_text(json.dumps(tasks))
    assert [image.path.name for image in read_dataset(tmp_path / 'out').images] == ['1.png', '2.png']
    tasks[0]['annotations'][0]['result'][0]['to_name'] = 'other'
    file.write_text(json.dumps(tasks))
    with pytest.raises(InputError, match='has several images'):
        read_dataset(tmp_path / 'out')


def test_lists_of_yolo_are_of_their_own_folder(tmp_path, monkeypatch):
    for name, label in (('one', 0), ('other', 1)):
        picture(tmp_path / name / 'images/1.png')
        (tmp_path / name / 'labels').mkdir()
        (tmp_path / name / 'labels/1.txt').write_text(f'{label} .5 .5 .2 .2\n')
        (tmp_path / name / 'train.txt').write_text('images/1.png\n')
        (tmp_path / name / 'data.yaml').write_text('train: train.txt\nnames: [a, b]\n')
    monkeypatch.chdir(tmp_path / 'other')
    found = read_dataset(tmp_path / 'one')
    assert found.images[0].path == tmp_path / 'one/images/1.png' and found.images[0].objects[0].category == 'a'


@pytest.mark.parametrize('format', ['yolo', 'coco', 'voc', 'cvat', 'labelme', 'label-studio'])
def test_images_without_a_split_are_neither_lost_nor_twice(format, tmp_path):
    write_dataset(dataset(tmp_path / 'D', ['1.png', '2.png']), tmp_path / 'none', format)
    found = read_dataset(tmp_path / 'none')
    assert len(found.images) == 2 and 'val' not in {image.split for image in found.images}
    some = dataset(tmp_path / 'E', ['train/1.png', 'val/2.png', 'extra/3.png'])
    some.images[0].split, some.images[1].split = 'train', 'val'
    notes = write_dataset(some, tmp_path / 'some', format)
    assert '1 images are in no split' in notes[0]
    counted = [image.split for image in read_dataset(tmp_path / 'some').images]
    assert sorted(map(str, counted)) == ['train', 'train', 'val']


def test_images_that_lists_do_not_name_are_left_out_with_a_note(tmp_path):
    number_masks(tmp_path, [(0, 1)] * 6)
    (tmp_path / 'images').rename(tmp_path / 'JPEGImages')
    (tmp_path / 'masks').rename(tmp_path / 'SegmentationClass')
    (tmp_path / 'labelmap.txt').write_text('background:0,0,0::\ncat:1,1,1::\n')
    (tmp_path / 'ImageSets/Segmentation').mkdir(parents=True)
    (tmp_path / 'ImageSets/Segmentation/Train.txt').write_text('0\n1\n')
    (tmp_path / 'ImageSets/Segmentation/Validation.txt').write_text('2\n')
    found = inspect_dataset(tmp_path)
    assert {name: len(split.names) for name, split in found.splits.items()} == dict(train=2, val=1)
    assert any('3 images are in no list' in note for note in found.notes)


def test_lists_with_folders_or_spaces_name_their_images(tmp_path):
    names = ['a/1.png', 'a/3.png', 'b/1.png', 'b/2 b.png']
    write_dataset(dataset(tmp_path / 'D', names), tmp_path / 'data', 'coco')
    (tmp_path / 'data/train.txt').write_text('a/1.png\nb/2 b.png\n')
    (tmp_path / 'data/val.txt').write_text('b/1.png\n')
    found = inspect_dataset(tmp_path / 'data')
    assert found.splits['train'].names == ['a/1.png', 'b/2 b.png'] and found.splits['val'].names == ['b/1.png']
    (tmp_path / 'data/val.txt').write_text('1.png\n')
    with pytest.raises(InputError, match=r'lists 1.png, which may be a/1.png, b/1.png'):
        inspect_dataset(tmp_path / 'data')


def test_masks_of_voc_go_to_objects_of_their_class(tmp_path):
    """A rider and a horse, whose boxes nearly agree, numbered in another order than in the XML file."""
    horse = [[2.0, 2.0, 30.0, 2.0, 30.0, 12.0, 2.0, 12.0]]
    rider = [[2.0, 12.0, 30.0, 12.0, 30.0, 22.0, 2.0, 22.0]]
    objects = [AnnotatedObject('cat', (2, 2, 30, 21), rider), AnnotatedObject('dog', (2, 3, 30, 22), horse)]
    write_dataset(dataset(tmp_path / 'D', ['1.png'], objects=objects), tmp_path / 'voc', 'voc')
    file = tmp_path / 'voc/SegmentationObject/1.png'
    numbers = np.array(Image.open(file))
    Image.fromarray(np.choose(numbers, [0, 2, 1]).astype(np.uint8)).save(file)
    found = read_dataset(tmp_path / 'voc').images[0].objects
    for item, expected in zip(found, objects):
        assert (mask_of(item, 24, 32) == mask_of(expected, 24, 32)).all()


def test_what_a_format_has_no_place_for_is_said(tmp_path):
    crowd, hidden = replace(BOX, crowd=True), [[4.0, 4.0, 6.0, 4.0, 6.0, 6.0]]
    notes = write_dataset(dataset(tmp_path / 'D', ['1.png'], objects=[BOX, crowd]), tmp_path / 'yolo', 'yolo')
    assert '1 crowds are left out' in notes[0]
    assert len(read_dataset(tmp_path / 'yolo').images[0].objects) == 1
    above = [[2.0, 2.0, 20.0, 2.0, 20.0, 20.0, 2.0, 20.0]]
    objects = [AnnotatedObject('cat', (4, 4, 6, 6), hidden), AnnotatedObject('dog', (2, 2, 20, 20), above)]
    notes = write_dataset(dataset(tmp_path / 'E', ['1.png'], objects=objects), tmp_path / 'voc', 'voc')
    assert '1 masks lie behind others' in notes[0]
    assert [item.segmentation is None for item in read_dataset(tmp_path / 'voc').images[0].objects] == [True, False]
    many = dataset(tmp_path / 'F', ['1.png'])
    many.classes += [f'class {i}' for i in range(300)]
    with pytest.raises(InputError, match='but label maps of 8 bits have 255'):
        write_dataset(many, tmp_path / 'masks', 'masks')
    number_masks(tmp_path / 'G', [(0, 1), (1, 0)])
    (tmp_path / 'G/classes.txt').write_text('background\ncat\n')
    convert_dataset(tmp_path / 'G', tmp_path / 'H', 'voc')
    assert len(read_dataset(tmp_path / 'H', 'voc').images) == 2


def test_images_without_objects_are_trained_on(tmp_path):
    from mmengine.registry import DATASETS, init_default_scope

    from mmvitscale.config.loading import load_config

    found = dataset(tmp_path / 'D', [f'{i}.png' for i in range(6)], 'train', [BOX, replace(BOX, category='dog')])
    for image in found.images[3:]:
        image.objects = []
    write_dataset(found, tmp_path / 'data', 'yolo')
    propose_config(tmp_path / 'data', tmp_path / 'own.py')
    cfg = load_config(str(tmp_path / 'own.py'))
    init_default_scope('mmdet')
    loaded = DATASETS.build({**cfg.train_dataloader.dataset, 'pipeline': []})
    assert len(loaded) == 5 and sum(not len(loaded.get_data_info(i)['instances']) for i in range(5)) >= 2


def test_difficult_objects_without_a_mask_do_not_end_a_training_of_masks(tmp_path):
    masked = AnnotatedObject('cat', (2, 2, 20, 20), [[2.0, 2.0, 20.0, 2.0, 20.0, 20.0, 2.0, 20.0]])
    found = dataset(tmp_path / 'D', [f'{i}.png' for i in range(4)], objects=[masked, replace(BOX, crowd=True)])
    write_dataset(found, tmp_path / 'voc', 'voc')
    lines = propose_config(tmp_path / 'voc', tmp_path / 'own.py', task='instance')
    content = json.loads((tmp_path / 'own_train.json').read_text())
    assert all(item['segmentation'] for item in content['annotations']) and lines


def test_splits_of_other_programs(tmp_path):
    """Roboflow's file names a validation set that was not exported; VOC2007 has trainval and test."""
    write_dataset(dataset(tmp_path / 'D', ['1.png', '2.png', '3.png'], 'train'), tmp_path / 'yolo', 'yolo')
    text = (tmp_path / 'yolo/data.yaml').read_text()
    (tmp_path / 'yolo/data.yaml').write_text(text.replace('val: train/images', 'val: ../valid/images'))
    found = read_dataset(tmp_path / 'yolo')
    assert {image.split for image in found.images} == {'train'} and any(
        'val as ../valid/images' in note for note in found.notes
    )
    write_dataset(dataset(tmp_path / 'E', ['1.png', '2.png', '3.png']), tmp_path / 'voc', 'voc')
    lists = tmp_path / 'voc/ImageSets/Main'
    (lists / 'train.txt').unlink()
    (lists / 'trainval.txt').write_text('1\n2\n')
    (lists / 'test.txt').write_text('3\n')
    assert [image.split for image in read_dataset(tmp_path / 'voc').images] == ['train', 'train', 'test']


def test_ignored_shapes_and_grey_tables(tmp_path):
    picture(tmp_path / 'A/0.png')
    labelme(tmp_path / 'A/0.json', '0.png', '__ignore__')
    assert [len(image.objects) for image in read_dataset(tmp_path / 'A').images] == [0]
    number_masks(tmp_path / 'B', [(0, 255), (255, 0)])
    (tmp_path / 'B/class_dict.csv').write_text('name,r,g,b\nground,0,0,0\ncell,255,255,255\n')
    found = inspect_dataset(tmp_path / 'B')
    assert found.classes == ['ground', 'cell'] and 'cell (50.0%)' in found.lines[2]
    shutil.rmtree(tmp_path / 'B')
    assert not Path(tmp_path / 'B').exists()
