"""Folders as people have them, with something amiss or odd: a sentence that names it, or read as it is meant."""

import re
import shutil
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mmvitscale.datasets.formats.registry import FORMATS, find_format, read_dataset
from mmvitscale.datasets.mini import CLASSES
from mmvitscale.errors import InputError
from tests.helpers import annotation_samples as samples
from tests.helpers import annotation_tool_writers, annotation_writers
from tests.helpers.annotation_checks import contents, error_of, read_without_invalid
from tests.helpers.annotation_flavours import FLAVOURS, written
from tests.helpers.annotation_samples import OBJECT_CLASSES
from tests.helpers.annotation_writers import put

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    'second', ['LabelMe, polygons', 'CVAT, boxes', 'Label Studio, rectangles', 'COCO, boxes', 'VOC, labelImg']
)
def test_a_folder_of_two_formats(second, folders, copied):
    root = copied('YOLO, labelImg')
    before = contents(read_dataset(root))
    shutil.copytree(folders(second), root, dirs_exist_ok=True)
    sentence = error_of(root)
    assert 'yolo' in sentence and FLAVOURS[second].format in sentence and '--format' in sentence
    after = contents(read_dataset(root, 'yolo'))
    assert {name: after[name] for name in before} == before


def test_two_label_files_of_one_image(copied):
    root = copied('YOLO, Ultralytics')
    put(root / 'images/train/scene_00000.txt', '0 0.5 0.5 0.2 0.2\n')
    sentence = error_of(root)
    assert 'scene_00000.txt' in sentence


def test_tracks_of_a_video(copied):
    root = copied('CVAT, boxes')
    content = (root / 'annotations.xml').read_text()
    box = '<box frame="0" outside="0" occluded="0" keyframe="1" xtl="1" ytl="1" xbr="9" ybr="9" z_order="0"></box>'
    track = f'<track id="0" label="disc" source="manual">{box}</track>'
    put(root / 'annotations.xml', re.sub(r'<image.*</image>', track, content, flags=re.S))
    sentence = error_of(root)
    assert 'annotations.xml' in sentence and 'track' in sentence and 'CVAT for images' in sentence


@pytest.mark.parametrize('format', [None, *FORMATS])
def test_folders_without_anything(format, tmp_path):
    (tmp_path / 'empty/images').mkdir(parents=True)
    error_of(tmp_path / 'empty', format)
    put(tmp_path / 'images_alone/a.jpg', samples.sample()[0].content)
    error_of(tmp_path / 'images_alone', format)
    put(tmp_path / 'text_alone/README.txt', 'hello')
    error_of(tmp_path / 'text_alone', format)


@pytest.mark.parametrize('flavour', ['YOLO, Roboflow', 'VOC', 'LabelMe, polygons', 'CVAT, boxes', 'Label Studio, rectangles'])
def test_annotations_without_a_single_image(flavour, copied):
    root = copied(flavour)
    for path in [*root.rglob('*.jpg'), *root.rglob('*.png')]:
        path.unlink()
    error_of(root)


def test_labels_without_image_and_images_without_label(copied):
    root = copied('YOLO, Roboflow')
    before = contents(read_dataset(root))
    put(root / 'train/labels/other.txt', '0 0.5 0.5 0.2 0.2\n')
    assert 'other.txt' in error_of(root)
    dataset, invalid = read_without_invalid(root)
    assert len(invalid) == 1 and contents(dataset) == before
    (root / 'train/labels/other.txt').unlink()
    (root / 'train/labels/scene_00000.txt').unlink()
    after = contents(read_dataset(root))
    assert after == {**before, 'train/images/scene_00000.jpg': []}


def test_two_images_of_one_label_file(copied):
    root = copied('YOLO, Roboflow')
    put(root / 'train/images/scene_00000.png', samples.encoded(np.zeros((64, 96, 3), np.uint8), '.png'))
    sentence = error_of(root)
    assert 'scene_00000.jpg' in sentence and 'scene_00000.png' in sentence and 'scene_00000.txt' in sentence


@pytest.mark.parametrize(
    'change',
    [
        ('train: ../train/images', 'train: /home/someone/datasets/scenes/train/images'),
        ('train: ../train/images', 'path: /home/someone/datasets/scenes\ntrain: train/images'),
        ('train: ../train/images', 'path: C:\\Users\\me\\scenes\ntrain: train\\images'),
        ('train: ../train/images', 'train: train/images/'),
        ('train: ../train/images', 'train: [../train/images]'),
        ('nc: 6', '# nc'),
        ('README', 'README'),
    ],
)
def test_data_yaml_of_another_machine(change, copied):
    root = copied('YOLO, Roboflow')
    before = contents(read_dataset(root))
    put(root / 'data.yaml', (root / 'data.yaml').read_text().replace(*change))
    assert contents(read_dataset(root)) == before


@pytest.mark.parametrize(
    'change, words',
    [
        (('nc: 6', 'nc: 7'), ['7', '6']),
        (("'disc'", "'square'"), ['square']),
        (("'disc'", 'no'), ['quotes']),
        (("'disc'", '"a\\nb"'), ['one line']),
        (("'disc'", '""'), ['class']),
        (('train: ../train/images', 'train: ../trained/pictures'), ['train', 'trained/pictures']),
        (('train: ../train/images', 'train: 7'), ['train', '7']),
        (('names: [', 'names: [[['), ['YAML']),
    ],
)
def test_wrong_data_yaml(change, words, copied):
    root = copied('YOLO, Roboflow')
    content = (root / 'data.yaml').read_text()
    assert change[0] in content
    put(root / 'data.yaml', content.replace(*change))
    sentence = error_of(root, 'yolo')
    assert all(word in sentence for word in ['data.yaml', *words])


def test_an_image_of_two_splits_is_said(copied):
    """People validate on what they train on to try things out; Ultralytics' own examples do."""
    root = copied('YOLO, Roboflow')
    put(root / 'data.yaml', (root / 'data.yaml').read_text().replace('../valid/images', '../train/images'))
    try:
        dataset = read_dataset(root)
    except InputError as error:
        assert 'train' in str(error) and 'val' in str(error)
    else:
        assert any('train and' in note or 'both' in note for note in dataset.notes)


NAMES = ('disc, large', 'l\'"eau"', '犬 🐕', 'cafe\u0301', '<b>&amp;</b>', 'a: b #c')


@pytest.mark.parametrize(
    'flavour',
    ['VOC, labelImg', 'LabelMe, polygons', 'CVAT, polygons, no subsets', 'Label Studio, rectangles', 'COCO, polygons'],
)
def test_names_of_classes_in_any_script(flavour, tmp_path, monkeypatch):
    other = dict(zip(OBJECT_CLASSES, NAMES))
    escaped = tuple(name.replace('&', '&amp;').replace('<', '&lt;') for name in NAMES)
    monkeypatch.setattr(annotation_tool_writers, 'OBJECT_CLASSES', escaped)
    monkeypatch.setattr(annotation_writers, 'OBJECT_CLASSES', NAMES)
    pictures = [
        replace(picture, shapes=tuple(replace(shape, name=other[shape.name]) for shape in picture.shapes))
        for picture in samples.sample()
    ]
    FLAVOURS[flavour].write(pictures, tmp_path / 'data')
    dataset = read_dataset(tmp_path / 'data')
    assert sorted(dataset.classes) == sorted(NAMES)
    found = [[item.category for item in image.objects] for image in sorted(dataset.images, key=lambda image: image.name[-9:])]
    assert found == [[shape.name for shape in picture.shapes] for picture in pictures]


def test_names_of_classes_in_any_script_in_yaml(copied):
    root = copied('YOLO, Roboflow')
    content = (root / 'data.yaml').read_text()
    quoted = '[' + ', '.join("'" + name.replace("'", "''") + "'" for name in NAMES) + ']'
    put(root / 'data.yaml', re.sub(r'names: .*', lambda _: f'names: {quoted}', content))
    assert read_dataset(root).classes == list(NAMES)


FILES = {
    'spaces': 'my scene 0.jpg',
    'NFC': 'caf\u00e9_0.jpg',
    'NFD': 'cafe\u0301_0.jpg',
    'other scripts': '犬_🐕_0.jpg',
    'upper-case suffix': 'SCENE_0.JPG',
    'dots': 'scene.v1.0.jpg',
    'percent': '100%25_0.jpg',
    'hash and quotes': "a#b'c&d_0.jpg",
    'a dash before': '-scene_0.jpg',
    'a long suffix': 'scene_0.jpeg',
}
EACH_FORMAT = [
    'YOLO, Roboflow',
    'YOLO, Ultralytics, lists',
    'YOLO, Darknet',
    'YOLO, labelImg',
    'VOC',
    'VOC, labelImg',
    'LabelMe, polygons',
]
EACH_FORMAT += [
    'LabelMe, backslashes',
    'CVAT, boxes',
    'Label Studio, polygons',
    'Label Studio, files without prefix',
    'COCO, boxes',
    'masks, Roboflow',
]


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('flavour', EACH_FORMAT)
def test_names_of_files(flavour, name, tmp_path):
    masks = flavour.startswith('masks')
    first, *others = samples.of_one_kind() if masks else samples.sample()
    if masks and name.endswith('suffix'):  # those of one folder have the same
        suffix = FILES[name].rpartition('.')[2]
        others = [replace(picture, file=f'{picture.stem}.{suffix}') for picture in others]
    pictures = written(flavour, [replace(first, file=FILES[name]), *others])
    FLAVOURS[flavour].write(pictures, tmp_path / 'data')
    found = {image.path.name: len(image.objects) for image in read_dataset(tmp_path / 'data').images}
    assert found == {picture.file: 0 if masks else len(picture.shapes) for picture in pictures}


@pytest.mark.parametrize('flavour', ['YOLO, Ultralytics, lists', 'VOC', 'LabelMe, polygons', 'CVAT, boxes', 'COCO, boxes'])
def test_file_names_that_were_composed_elsewhere(flavour, tmp_path):
    """macOS writes é as two characters, and archives keep the annotations' one."""
    pictures = [replace(samples.sample()[0], file=FILES['NFC']), *samples.sample()[1:]]
    FLAVOURS[flavour].write(pictures, tmp_path / 'data')
    for path in (tmp_path / 'data').rglob('caf*.jpg'):
        path.rename(path.with_name(unicodedata.normalize('NFD', path.name)))
    found = {len(image.objects) for image in read_dataset(tmp_path / 'data').images if image.path.name.startswith('caf')}
    assert found == {len(pictures[0].shapes)}


def test_suffixes_in_another_case(copied):
    root = copied('VOC')
    before = [item for objects in contents(read_dataset(root)).values() for item in objects]
    for path in (root / 'JPEGImages').iterdir():
        path.rename(path.with_suffix(path.suffix.upper()))
    assert [item for objects in contents(read_dataset(root)).values() for item in objects] == before


def test_lines_of_windows_and_byte_order_marks(copied):
    root = copied('YOLO, Ultralytics, lists')
    before = contents(read_dataset(root))
    for path in [*root.rglob('*.txt'), root / 'data.yaml']:
        path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes().replace(b'\n', b'\r\n') + b'\r\n')
    assert contents(read_dataset(root)) == before


@pytest.mark.parametrize(
    'flavour', ['YOLO, Roboflow', 'VOC', 'LabelMe, polygons', 'CVAT, boxes', 'Label Studio, rectangles', 'masks, CVAT, palette']
)
def test_files_of_macos_and_hidden_folders_are_passed_over(flavour, copied):
    root = copied(flavour)
    before = contents(read_dataset(root))
    for path in [path for path in root.rglob('*') if path.is_file()]:
        (path.parent / f'._{path.name}').write_bytes(b'\0\x05\x16\x07 Mac OS X')
        put(path.parent / '.ipynb_checkpoints' / path.name, path.read_bytes())
    put(root / '.DS_Store', b'\0\0\0\1Bud1')
    put(root / 'train/Thumbs.db' if (root / 'train').is_dir() else root / 'Thumbs.db', b'\xd0\xcf')
    assert contents(read_dataset(root)) == before


# Label maps


def _masks_case(change, words, flavour='masks, CVAT, colours'):
    return pytest.param(change, words, flavour, id=' '.join(words))


def _first_mask(root):
    return root / 'SegmentationClass/scene_00000.png'


def _resize(root):
    image = Image.open(_first_mask(root))
    image.resize((48, 32), 0).save(_first_mask(root))


def _recolour(root):
    array = np.array(Image.open(_first_mask(root)).convert('RGB'))
    array[3, 4] = (1, 2, 3)
    Image.fromarray(array).save(_first_mask(root))


def _without(name):
    return lambda root: (root / name).unlink()


def _table(old, new):
    def change(root):
        file = root / 'labelmap.txt'
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    'change, words, flavour',
    [
        _masks_case(_resize, ['scene_00000', '48 x 32', '96 x 64']),
        _masks_case(_recolour, ['scene_00000', '1, 2, 3', 'labelmap.txt']),
        _masks_case(_without('SegmentationClass/scene_00000.png'), ['scene_00000']),
        _masks_case(_without('JPEGImages/scene_00000.jpg'), ['scene_00000']),
        _masks_case(lambda root: _first_mask(root).write_bytes(b'\x89PNG\r\n'), ['scene_00000.png']),
        _masks_case(_table('120,120,120', '120,120'), ['labelmap.txt', '120,120']),
        _masks_case(_table('120,120,120', '120,120,999'), ['labelmap.txt', '999']),
        _masks_case(_table('120,120,120', '0,0,0'), ['labelmap.txt', '0, 0, 0']),
        _masks_case(_table('stripes', 'checks'), ['labelmap.txt', 'checks']),
        _masks_case(lambda root: (root / 'labelmap.txt').write_text(''), ['labelmap.txt']),
    ],
)
def test_wrong_label_maps(change, words, flavour, copied):
    root = copied(flavour)
    change(root)
    sentence = error_of(root, 'masks')
    assert all(word in sentence for word in words)


def test_numbers_beyond_the_classes(copied):
    root = copied('masks, numbers')
    file = root / 'masks/train/scene_00000.png'
    array = np.array(Image.open(file))
    array[0, 0] = 77
    Image.fromarray(array).save(file)
    sentence = error_of(root, given=CLASSES)
    assert 'scene_00000' in sentence and '77' in sentence


def test_the_format_that_is_found_is_shown(folders):
    for flavour in ('YOLO, Roboflow', 'VOC', 'CVAT, boxes'):
        name, how = find_format(folders(flavour))
        assert name == FLAVOURS[flavour].format and how
