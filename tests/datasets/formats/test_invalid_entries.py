"""What people's folders have wrong: one sentence with the place; ``skip_invalid`` leaves that entry out, lists it, and reads
the others as before."""

import json
import shutil

import pytest

from mmvitscale.datasets.formats.annotations import Entries
from mmvitscale.datasets.formats.registry import read_dataset
from tests.helpers.annotation_checks import contents, error_of, read_without_invalid
from tests.helpers.annotation_flavours import FLAVOURS
from tests.helpers.annotation_samples import sample

pytestmark = pytest.mark.integration


def line(number, text):
    """Replaces a line, counted from 1."""

    def change(path):
        lines = path.read_text().splitlines()
        lines[number - 1] = text
        path.write_text('\n'.join(lines))

    return change


def text(old, new, count=1):
    """Replaces the first places of a text."""

    def change(path):
        before = path.read_text()
        assert old in before
        path.write_text(before.replace(old, new, count))

    return change


def tag(old, new):
    """Renames the first element of a kind."""

    def change(path):
        text(f'<{old} ', f'<{new} ')(path)
        text(f'</{old}>', f'</{new}>')(path)

    return change


def key(*keys, value):
    """Sets an entry of a JSON file."""

    def change(path):
        content = place = json.loads(path.read_text())
        for name in keys[:-1]:
            place = place[name]
        place[keys[-1]] = value
        path.write_text(json.dumps(content))

    return change


YOLO = ('YOLO, Roboflow', 'train/labels/scene_00000.txt')
POLYGONS = ('YOLO, Ultralytics, polygons', 'labels/train/scene_00000.txt')
VOC = ('VOC, CVAT', 'Annotations/scene_00000.xml')
LABELME = ('LabelMe, polygons', 'scene_00000.json')
LABELME_BOXES = ('LabelMe, rectangles', 'scene_00000.json')
LABELME_MASKS = ('LabelMe, masks', 'scene_00000.json')
CVAT = ('CVAT, boxes', 'annotations.xml')
CVAT_POLYGONS = ('CVAT, polygons, no subsets', 'annotations.xml')
CVAT_MASKS = ('CVAT, masks, job', 'annotations.xml')
TASKS = 'project-1-at-2024-05-02-11-38-0a1b2c3d.json'
STUDIO = ('Label Studio, rectangles', TASKS)
STUDIO_POLYGONS = ('Label Studio, polygons', TASKS)
STUDIO_BRUSH = ('Label Studio, brush', TASKS)
COCO = ('COCO, polygons', 'annotations/instances_train2017.json')
FIRST = sample()[0].shapes[0]
LEFT, TOP, RIGHT, BOTTOM = FIRST.box
CVAT_BOX = f'xtl="{LEFT:.2f}" ytl="{TOP:.2f}" xbr="{RIGHT:.2f}" ybr="{BOTTOM:.2f}"'
CVAT_POINTS = ';'.join(f'{x:.2f},{y:.2f}' for x, y in FIRST.parts[0])
VOC_BOX = f'<xmin>{LEFT:.2f}</xmin><ymin>{TOP:.2f}</ymin><xmax>{RIGHT:.2f}</xmax><ymax>{BOTTOM:.2f}</ymax>'


def shape(name, value):
    return key('shapes', 0, name, value=value)


def region(*keys, value):
    return key(0, 'annotations', 0, 'result', 0, *keys, value=value)


def key_point(path):
    region('type', value='keypointlabels')(path)
    region('value', value=dict(x=9, y=9, width=0.5, keypointlabels=['nose']))(path)


def voc_box(*sides):
    return text(VOC_BOX, ''.join(f'<{k}>{v}</{k}>' for k, v in zip(('xmin', 'ymin', 'xmax', 'ymax'), sides)))


def cvat_box(*sides):
    return text(CVAT_BOX, ' '.join(f'{k}="{v}"' for k, v in zip(('xtl', 'ytl', 'xbr', 'ybr'), sides)))


# The first object of the first image is wrong: (flavour and file, change, words of the sentence).
OBJECTS = {
    'yolo, class beyond the names': (YOLO, line(1, '6 0.5 0.5 0.2 0.2'), ['line 1', 'class 6', '6 names']),
    'yolo, class below 0': (YOLO, line(1, '-1 0.5 0.5 0.2 0.2'), ['line 1', '-1']),
    'yolo, class with a fraction': (YOLO, line(1, '1.5 0.5 0.5 0.2 0.2'), ['line 1', '1.5']),
    'yolo, class as a name': (YOLO, line(1, 'disc 0.5 0.5 0.2 0.2'), ['line 1', 'disc']),
    'yolo, pixels': (YOLO, line(1, '0 480 320 96 64'), ['line 1', '480']),
    'yolo, beyond the image': (YOLO, line(1, '0 0.5 1.2 0.2 0.2'), ['line 1', '1.2']),
    'yolo, below 0': (YOLO, line(1, '0 -0.5 0.2 0.2 0.2'), ['line 1', '-0.5']),
    'yolo, NaN': (YOLO, line(1, '0 nan 0.5 0.2 0.2'), ['line 1', 'nan']),
    'yolo, infinite': (YOLO, line(1, '0 0.5 0.5 inf 0.2'), ['line 1', 'inf']),
    'yolo, short line': (YOLO, line(1, '0 0.5 0.5 0.2'), ['line 1', '4 numbers']),
    'yolo, class alone': (YOLO, line(1, '0'), ['line 1']),
    'yolo, no width': (YOLO, line(1, '0 0.5 0.5 0 0.2'), ['line 1', 'no area']),
    'yolo, decimal commas': (YOLO, line(1, '0 0,5 0,5 0,2 0,2'), ['line 1', '0,5']),
    'yolo, commas between': (YOLO, line(1, '0,0.5,0.5,0.2,0.2'), ['line 1']),
    'yolo, a header': (YOLO, line(1, 'class x y w h'), ['line 1', 'class x']),
    'yolo, confidence above 1': (YOLO, line(1, '0 0.5 0.5 0.2 0.2 7'), ['line 1', '7']),
    'yolo, polygon of NaN': (POLYGONS, line(1, '0 0.1 0.1 0.2 nan 0.3 0.3'), ['line 1', 'nan']),
    'yolo, polygon beyond': (POLYGONS, line(1, '0 0.1 0.1 0.2 0.9 1.3 0.3'), ['line 1', '1.3']),
    'yolo, polygon without area': (POLYGONS, line(1, '0 0.1 0.1 0.1 0.2 0.1 0.3'), ['line 1', 'no area']),
    'voc, no box': (VOC, text(f'<bndbox>{VOC_BOX}</bndbox>', ''), ['line 1', 'object 1', 'bndbox']),
    'voc, no name': (VOC, text(f'<name>{FIRST.name}</name>', ''), ['object 1', 'class']),
    'voc, empty name': (VOC, text(f'<name>{FIRST.name}</name>', '<name> </name>'), ['object 1', 'class']),
    'voc, two lines in a name': (VOC, text(f'<name>{FIRST.name}</name>', '<name>a&#10;b</name>'), ['object 1', 'one line']),
    'voc, no number': (VOC, voc_box('ten', 10, 20, 20), ['object 1', 'xmin', 'ten']),
    'voc, NaN': (VOC, voc_box('nan', 10, 20, 20), ['object 1', 'nan']),
    'voc, a corner is missing': (VOC, text(f'<xmax>{RIGHT:.2f}</xmax>', ''), ['object 1', 'xmax']),
    'voc, corners the other way round': (VOC, voc_box(20, 20, 10, 10), ['object 1', 'no area']),
    'voc, outside': (VOC, voc_box(200, 10, 220, 20), ['object 1', 'outside', '96 x 64']),
    'labelme, point': (LABELME, shape('shape_type', 'point'), ['shapes[0]', 'point']),
    'labelme, line': (LABELME, shape('shape_type', 'line'), ['shapes[0]', 'line']),
    'labelme, linestrip': (LABELME, shape('shape_type', 'linestrip'), ['shapes[0]', 'linestrip']),
    'labelme, of tomorrow': (LABELME, shape('shape_type', 'star5'), ['shapes[0]', 'star5']),
    'labelme, two points': (LABELME, shape('points', [[1, 1], [9, 9]]), ['shapes[0]', '2 points']),
    'labelme, no points': (LABELME, shape('points', []), ['shapes[0]', 'points']),
    'labelme, points of three numbers': (LABELME, shape('points', [[1, 1, 1]] * 3), ['shapes[0]', '[1, 1, 1]']),
    'labelme, NaN': (LABELME, shape('points', [[1, 1], [9, float('nan')], [5, 9]]), ['shapes[0]', 'nan']),
    'labelme, text': (LABELME, shape('points', [[1, 1], [9, '9'], [5, 9]]), ['shapes[0]', '9']),
    'labelme, outside': (LABELME, shape('points', [[100, 1], [120, 9], [110, 9]]), ['shapes[0]', 'outside', '96 x 64']),
    'labelme, no label': (LABELME, shape('label', None), ['shapes[0]', 'None']),
    'labelme, label as a number': (LABELME, shape('label', 7), ['shapes[0]', '7']),
    'labelme, label of two lines': (LABELME, shape('label', 'a\nb'), ['shapes[0]', 'one line']),
    'labelme, no shape': (LABELME, key('shapes', 0, value='disc'), ['shapes[0]', 'disc']),
    'labelme, rectangle of one point': (LABELME_BOXES, shape('points', [[1, 1]]), ['shapes[0]', '1 point']),
    'labelme, rectangle without area': (LABELME_BOXES, shape('points', [[1, 1], [1, 9]]), ['shapes[0]', 'no area']),
    'labelme, broken mask': (LABELME_MASKS, shape('mask', 'iVBORw0KGgo!!'), ['shapes[0]', 'mask', 'base64']),
    'labelme, mask without text': (LABELME_MASKS, shape('mask', None), ['shapes[0]', 'mask']),
    'labelme, mask of another size': (LABELME_MASKS, shape('points', [[1, 1], [90, 60]]), ['shapes[0]', 'mask', '90 x 60']),
    'cvat, reversed': (CVAT, cvat_box(20, 20, 10, 10), ['line 9', 'no area']),
    'cvat, outside': (CVAT, cvat_box(-30, 10, -10, 20), ['line 9', 'outside']),
    'cvat, no number': (CVAT, cvat_box('', 10, 20, 20), ['line 9', 'xtl']),
    'cvat, NaN': (CVAT, cvat_box('nan', 10, 20, 20), ['line 9', 'nan']),
    'cvat, a side is missing': (CVAT, text(f' xbr="{RIGHT:.2f}"', ''), ['line 9', 'xbr']),
    'cvat, no label': (CVAT, text(f'<box label="{FIRST.name}"', '<box'), ['line 9', 'class']),
    'cvat, two points': (CVAT_POLYGONS, text(CVAT_POINTS, '1,1;9,9'), ['line 9', '2 points']),
    'cvat, broken points': (CVAT_POLYGONS, text(CVAT_POINTS, '1,1;9;3,9;4,4'), ['line 9', '1,1;9']),
    'cvat, words as points': (CVAT_POLYGONS, text(CVAT_POINTS, 'a,b;c,d;e,f'), ['line 9', 'a,b']),
    'cvat, no points': (CVAT_POLYGONS, text(f' points="{CVAT_POINTS}"', ''), ['line 9', 'points']),
    'cvat, polyline': (CVAT_POLYGONS, tag('polygon', 'polyline'), ['line 9', 'polyline']),
    'cvat, points': (CVAT_POLYGONS, tag('polygon', 'points'), ['line 9', 'points']),
    'cvat, cuboid': (CVAT, tag('box', 'cuboid'), ['line 9', 'cuboid']),
    'cvat, skeleton': (CVAT, tag('box', 'skeleton'), ['line 9', 'skeleton']),
    'cvat, run lengths that are too short': (CVAT_MASKS, text('rle="', 'rle="" was="'), ['line 9']),
    'cvat, run lengths that are too long': (CVAT_MASKS, text('rle="', 'rle="99999, '), ['line 9', 'run lengths']),
    'cvat, negative run lengths': (CVAT_MASKS, text('rle="', 'rle="-5, 5, '), ['line 9', 'run lengths']),
    'cvat, run lengths of words': (CVAT_MASKS, text('rle="', 'rle="many, '), ['line 9', 'rle']),
    'cvat, mask beyond the image': (CVAT_MASKS, text(f'left="{LEFT}"', 'left="95"'), ['line 9', '96 x 64']),
    'label studio, key points': (STUDIO, key_point, ['task [0]', 'result [0]']),
    'label studio, no label': (STUDIO, region('value', 'rectanglelabels', value=[]), ['task [0]', 'result [0]', 'label']),
    'label studio, two labels': (
        STUDIO,
        region('value', 'rectanglelabels', value=['a', 'b']),
        ['task [0]', 'result [0]', 'a, b'],
    ),
    'label studio, text': (STUDIO, region('value', 'x', value='5%'), ['task [0]', 'result [0]', '5%']),
    'label studio, NaN': (STUDIO, region('value', 'x', value=float('nan')), ['task [0]', 'result [0]', 'nan']),
    'label studio, no height': (STUDIO, region('value', 'height', value=0), ['task [0]', 'result [0]', 'no area']),
    'label studio, outside': (STUDIO, region('value', 'x', value=110), ['task [0]', 'result [0]', 'outside']),
    'label studio, turned image': (STUDIO, region('image_rotation', value=90), ['task [0]', 'result [0]', '90']),
    'label studio, two points': (
        STUDIO_POLYGONS,
        region('value', 'points', value=[[1, 1], [9, 9]]),
        ['task [0]', 'result [0]', '2 points'],
    ),
    'label studio, points without pairs': (
        STUDIO_POLYGONS,
        region('value', 'points', value=[1, 2, 3]),
        ['result [0]', '[1, 2, 3]'],
    ),
    'label studio, brush that ends early': (
        STUDIO_BRUSH,
        region('value', 'rle', value=[0, 0, 96, 0, 60]),
        ['result [0]', 'rle'],
    ),
    'label studio, brush of another size': (
        STUDIO_BRUSH,
        region('value', 'rle', value=[0, 0, 0, 4, 57, 27, 191, 192, 0]),
        ['result [0]', '4 values'],
    ),
    'label studio, brush of words': (STUDIO_BRUSH, region('value', 'rle', value='abc'), ['result [0]', 'rle']),
    'label studio, brush of no bytes': (STUDIO_BRUSH, region('value', 'rle', value=[900, -3]), ['result [0]', 'rle']),
    'coco, NaN': (COCO, key('annotations', 0, 'bbox', value=[float('nan'), 1, 2, 2]), ['annotation', '1']),
    'coco, unknown category': (COCO, key('annotations', 0, 'category_id', value=99), ['annotation', '99']),
    'coco, no area': (COCO, key('annotations', 0, 'bbox', value=[5, 5, 0, 9]), ['annotation', '1']),
}


@pytest.mark.parametrize('case', OBJECTS)
def test_an_object_is_refused_or_left_out(case, folders, copied):
    (flavour, file), change, words = OBJECTS[case]
    root, format = copied(flavour), FLAVOURS[flavour].format
    change(root / file)
    sentence = error_of(root, format)
    for word in (file.rpartition('/')[2], *words):
        assert word in sentence
    dataset, invalid = read_without_invalid(root, format)
    assert len(invalid) == 1 and sentence.startswith(invalid[0])
    before = contents(read_dataset(folders(flavour)))
    image = next(name for name in before if 'scene_00000' in name)
    before[image] = before[image][1:]
    assert contents(dataset) == before


# A whole image is wrong: (flavour and file, change, words of the sentence, the images that are left out).
def removed(path):
    path.unlink()


def doubled_task(path):
    tasks = json.loads(path.read_text())
    path.write_text(json.dumps([*tasks, dict(tasks[0], id=99)]))


def annotators(path):
    tasks = json.loads(path.read_text())
    tasks[0]['annotations'].append(dict(tasks[0]['annotations'][0], id=99, completed_by=2))
    path.write_text(json.dumps(tasks))


def copy_to(name):
    return lambda path: (path.parent / name).write_bytes(path.read_bytes())


IMAGES = {
    'yolo, not UTF-8': (YOLO, lambda path: path.write_bytes(b'0 \xff\xfe 0.5'), ['scene_00000.txt', 'UTF-8'], 1),
    'voc, not XML': (VOC, lambda path: path.write_text('0 0.5 0.5 0.2 0.2\n'), ['scene_00000.xml'], 1),
    'voc, truncated': (VOC, lambda path: path.write_text(path.read_text()[:300]), ['scene_00000.xml', 'not XML'], 1),
    'voc, empty': (VOC, lambda path: path.write_text(''), ['scene_00000.xml'], 1),
    'voc, another image size': (VOC, text('<width>96', '<width>1920'), ['scene_00000.xml', '1920 x 64', '96 x 64'], 1),
    'voc, turned': (VOC, text('<width>96</width><height>64', '<width>64</width><height>96'), ['64 x 96', 'EXIF'], 1),
    'voc, no image': (('VOC, CVAT', 'JPEGImages/scene_00000.jpg'), removed, ['scene_00000.xml', 'scene_00000.jpg'], 1),
    'labelme, another image size': (LABELME, key('imageWidth', value=640), ['scene_00000.json', '640 x 64', '96 x 64'], 1),
    'labelme, no image': (('LabelMe, polygons', 'scene_00000.jpg'), removed, ['scene_00000.json', 'scene_00000.jpg'], 1),
    'labelme, truncated': (LABELME, lambda path: path.write_text(path.read_text()[:-40]), ['scene_00000.json', 'JSON'], 1),
    'labelme, no shapes': (LABELME, key('shapes', value=None), ['scene_00000.json', 'shapes'], 1),
    'labelme, no path': (LABELME, key('imagePath', value=None), ['scene_00000.json', 'imagePath'], 1),
    'labelme, broken imageData': (
        ('LabelMe, image within', 'scene_00000.json'),
        key('imageData', value='/9j/4AAQ!!'),
        ['scene_00000.json', 'imageData'],
        1,
    ),
    'labelme, imageData of no image': (
        ('LabelMe, image within', 'scene_00000.json'),
        key('imageData', value='aGVsbG8='),
        ['scene_00000.json', 'imageData'],
        1,
    ),
    'labelme, imageData of another size': (
        ('LabelMe, image within', 'scene_00000.json'),
        key('imageHeight', value=640),
        ['scene_00000.json', '96 x 640', '96 x 64'],
        1,
    ),
    'cvat, another image size': (CVAT, text('width="96"', 'width="1920"'), ['line 8', '1920 x 64', '96 x 64'], 1),
    'cvat, no image': (('CVAT, boxes', 'images/scene_00000.jpg'), removed, ['annotations.xml', 'scene_00000.jpg'], 1),
    'cvat, image without name': (CVAT, text('name="scene_00000.jpg"', ''), ['line 8', 'name'], 1),
    'cvat, twice one image': (CVAT, text('scene_00001.jpg', 'scene_00000.jpg'), ['scene_00000.jpg'], 1),
    'label studio, two annotators': (STUDIO, annotators, ['task [0]', '2 annotators'], 1),
    'label studio, no image': (
        ('Label Studio, rectangles', 'images/0a1b2c3d-scene_00000.jpg'),
        removed,
        ['task [0]', 'scene_00000.jpg'],
        1,
    ),
    'label studio, no url': (STUDIO, key(0, 'data', value={}), ['task [0]', 'image'], 1),
    'label studio, no task': (STUDIO, key(0, value='x'), ['task [0]', 'x'], 1),
    'label studio, another image size': (STUDIO, region('original_width', value=640), ['task [0]', '640 x 64'], 1),
    'label studio, twice one image': (STUDIO, doubled_task, ['task [8]', 'task [0]', 'scene_00000.jpg'], 0),
    'voc, twice one image': (VOC, copy_to('scene_00000_copy.xml'), ['scene_00000.xml', 'scene_00000_copy.xml'], 0),
    'labelme, twice one image': (LABELME, copy_to('scene_00000_copy.json'), ['scene_00000.json', 'scene_00000_copy.json'], 0),
}


@pytest.mark.parametrize('case', IMAGES)
def test_an_image_is_refused_or_left_out(case, folders, copied):
    (flavour, file), change, words, lost = IMAGES[case]
    root, format = copied(flavour), FLAVOURS[flavour].format
    change(root / file)
    sentence = error_of(root, format)
    for word in words:
        assert word in sentence
    dataset, invalid = read_without_invalid(root, format)
    assert len(invalid) == 1 and sentence.startswith(invalid[0])
    before, after = contents(read_dataset(folders(flavour))), contents(dataset)
    missing = [name for name in before if name not in after]
    if flavour.startswith('YOLO'):  # the image is there, its label file is not read
        missing = [name for name in before if before[name] and not after.get(name)]
    elif case == 'cvat, twice one image':
        assert 'scene_00001' in missing[0]
    assert len(missing) == lost
    assert all(after[name] == before[name] for name in before if name not in missing)


def test_several_invalid_entries_are_counted(copied):
    root = copied(YOLO[0])
    for number, content in ((1, '9 0.5 0.5 0.2 0.2'), (2, '0 0.5'), (3, '0 0.5 7 0.2 0.2')):
        line(number, content)(root / YOLO[1])
    sentence = error_of(root)
    assert 'line 1' in sentence and '2 more entries' in sentence and '--skip-invalid' in sentence
    _, invalid = read_without_invalid(root)
    assert [f'line {number}' in text for number, text in enumerate(invalid, 1)] == [True] * 3


def test_polygons_that_cross_themselves_are_noted(copied):
    for flavour, file, change in (
        (*LABELME, shape('points', [[10, 10], [40, 40], [40, 10], [10, 40]])),
        (*CVAT_POLYGONS, text(CVAT_POINTS, '10,10;40,40;40,10;10,40')),
        (*STUDIO_POLYGONS, region('value', 'points', value=[[10, 10], [40, 40], [40, 10], [10, 40]])),
        (*POLYGONS, line(1, '0 0.1 0.1 0.4 0.4 0.4 0.1 0.1 0.4')),
    ):
        root = copied(flavour)
        change(root / file)
        entries = Entries()
        dataset = read_dataset(root, entries=entries)
        assert not entries.invalid
        assert any('cross' in note and file.rpartition('/')[2] in note for note in dataset.notes)
        shutil.rmtree(root)
