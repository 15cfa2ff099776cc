"""Every flavour of every format is read as it was written, and what is written is read by other readers."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mmvitscale.datasets.formats.annotations import AnnotatedDataset, AnnotatedImage, AnnotatedObject, Entries
from mmvitscale.datasets.formats.registry import FORMATS, find_format, read_dataset, write_dataset
from mmvitscale.datasets.mini import CLASSES, run_lengths
from tests.helpers import annotation_samples as samples
from tests.helpers import brush_rle
from tests.helpers.annotation_checks import check_images, check_label_maps, check_objects, in_order, mask_read, overlap
from tests.helpers.annotation_flavours import FLAVOURS, pictures_of
from tests.helpers.annotation_mask_writers import VOC_NAMES
from tests.helpers.annotation_parsers import PARSERS
from tests.helpers.annotation_samples import HEIGHT, OBJECT_CLASSES, WIDTH

pytestmark = pytest.mark.integration


def read(folders, name):
    flavour = FLAVOURS[name]
    return flavour, read_dataset(folders(name), entries=Entries(classes=flavour.given)), pictures_of(name)


@pytest.mark.parametrize('name', FLAVOURS)
def test_the_format_is_found(name, folders):
    assert find_format(folders(name))[0] == FLAVOURS[name].format


@pytest.mark.parametrize('name', FLAVOURS)
def test_classes_images_and_splits(name, folders):
    flavour, dataset, pictures = read(folders, name)
    used = {shape.name for picture in pictures for shape in picture.shapes}
    nothing = {'background', 'Void'}
    classes = list(flavour.classes or sorted(used))
    assert [c for c in dataset.classes if c not in nothing] == [c for c in classes if c not in nothing]
    check_images(dataset.images, pictures, flavour.splits, prefix='0a1b2c3d-')


@pytest.mark.parametrize('name', [name for name, flavour in FLAVOURS.items() if flavour.expected])
def test_objects(name, folders):
    flavour, dataset, pictures = read(folders, name)
    assert any(not picture.shapes for picture in pictures)
    for image, picture in zip(in_order(dataset.images), pictures, strict=True):
        expected = flavour.expected(picture)
        check_objects(image.objects, expected, flavour.resolution, flavour.overlap)


@pytest.mark.parametrize('name', [name for name, flavour in FLAVOURS.items() if not flavour.expected])
def test_label_maps(name, folders):
    flavour, dataset, pictures = read(folders, name)
    names = VOC_NAMES if 'VOC' in name else CLASSES
    check_label_maps(dataset.images, pictures, dataset.classes, names)


def test_label_maps_of_images_of_several_kinds(tmp_path):
    FLAVOURS['masks, CVAT, palette'].write(samples.sample(), tmp_path / 'data')
    dataset = read_dataset(tmp_path / 'data')
    check_images(dataset.images, samples.sample(), True)
    check_label_maps(dataset.images, samples.sample(), dataset.classes, CLASSES)


def test_label_maps_of_voc_beside_boxes(folders):
    """A folder with boxes and label maps: read as label maps where they are asked for."""
    dataset = read_dataset(folders('VOC, masks'), 'masks')
    assert dataset.classes[-6:] == list(OBJECT_CLASSES)
    for image, picture in zip(in_order(dataset.images), samples.sample(), strict=True):
        found = image.label_map()
        for shape in picture.shapes:
            assert (found[shape.mask] == dataset.classes.index(shape.name)).all()


def test_brush_run_lengths_as_label_studio_documents_them():
    """The decoder here gives what the encoder was given; the first bytes are those of the published layout."""
    mask = samples.sample()[0].shapes[0].mask
    for single in (False, True):
        coded = brush_rle.encode(mask, single)
        assert int.from_bytes(bytes(coded[:4]), 'big') == HEIGHT * WIDTH * 4 and coded[4] >> 3 == 7
        np.testing.assert_array_equal(brush_rle.decode(coded, HEIGHT, WIDTH) > 0, mask)


def test_brush_strokes_with_soft_edges_count_as_in_the_coco_export_of_label_studio(copied):
    """Every pixel that is not transparent."""
    root = copied('Label Studio, brush')
    (file,) = root.glob('*.json')
    tasks, shape = json.loads(file.read_text()), samples.sample()[0].shapes[0]
    soft = np.where(shape.mask, 255, 0).astype(np.uint8)
    soft[shape.mask & (np.arange(WIDTH) % 2 == 0)] = 40
    tasks[0]['annotations'][0]['result'][0]['value']['rle'] = brush_rle.encode(soft)
    file.write_text(json.dumps(tasks))
    (image,) = (image for image in read_dataset(root).images if 'scene_00000' in image.name)
    np.testing.assert_array_equal(mask_read(image.objects[0].segmentation), shape.mask)


def test_what_stands_beside_objects_in_label_studio(copied):
    """Cancelled annotations, drafts, predictions, choices and relations are no objects."""
    root = copied('Label Studio, rectangles')
    before = read_dataset(root)
    (file,) = root.glob('*.json')
    tasks = json.loads(file.read_text())
    annotation = tasks[0]['annotations'][0]
    tasks[0]['annotations'].append(dict(annotation, id=99, was_cancelled=True))
    tasks[0]['predictions'] = [dict(id=1, model_version='a', score=0.5, result=annotation['result'][:1])]
    tasks[0]['drafts'] = [dict(id=1, result=annotation['result'][:1])]
    choice = dict(id='c', type='choices', value=dict(choices=['day']), from_name='time', to_name='image')
    relation = dict(type='relation', from_id='r0', to_id='r1', direction='right')
    annotation['result'] = [*annotation['result'], choice, relation]
    file.write_text(json.dumps(tasks))
    after = read_dataset(root)
    assert [image.objects for image in after.images] == [image.objects for image in before.images]


def test_labels_apart_from_shapes_in_label_studio(copied):
    """Of a config with Rectangle and Labels: two results of one region, with one id."""
    root = copied('Label Studio, rectangles')
    before = read_dataset(root)
    (file,) = root.glob('*.json')
    tasks = json.loads(file.read_text())
    for task in tasks:
        results = []
        for result in task['annotations'][0]['result']:
            (name,) = result['value'].pop('rectanglelabels')
            results.append(dict(result, type='rectangle', from_name='box'))
            results.append(dict(result, type='labels', from_name='name', value=dict(result['value'], labels=[name])))
        task['annotations'][0]['result'] = results
    file.write_text(json.dumps(tasks))
    after = read_dataset(root)
    assert [image.objects for image in after.images] == [image.objects for image in before.images]


def test_tags_of_whole_images_in_cvat(copied):
    root = copied('CVAT, boxes')
    before = read_dataset(root)
    file = root / 'annotations.xml'
    file.write_text(file.read_text().replace('</image>', '<tag label="disc" source="manual"></tag></image>'))
    after = read_dataset(root)
    assert [image.objects for image in after.images] == [image.objects for image in before.images]


def test_a_mask_of_labelme_with_points_one_beyond_the_border(copied):
    """As LabelMe writes those at the right and lower border: the points are exclusive, the mask ends with the image."""
    root = copied('LabelMe, masks')
    file = root / 'scene_00000.json'
    content = json.loads(file.read_text())
    number = next(i for i, shape in enumerate(samples.sample()[0].shapes) if shape.box[3] == HEIGHT)
    left, top, right, bottom = samples.sample()[0].shapes[number].box
    content['shapes'][number]['points'] = [[left, top], [right - 1, bottom]]
    file.write_text(json.dumps(content))
    (image,) = (image for image in read_dataset(root).images if 'scene_00000' in image.name)
    np.testing.assert_array_equal(mask_read(image.objects[number].segmentation), samples.sample()[0].shapes[number].mask)


# Writing


def as_dataset(folder, form, pictures=None):
    """The sample as the package holds it. form: box, polygon, mask or map."""
    images = []
    for picture in pictures or samples.sample():
        path = folder / picture.file
        path.write_bytes(picture.content)
        objects = []
        for shape in picture.shapes:
            if form == 'box':
                objects.append(AnnotatedObject(shape.name, tuple(map(float, shape.box))))
            elif form == 'polygon':
                flat = [[v for point in part for v in point] for part in shape.parts]
                objects.append(AnnotatedObject(shape.name, samples.extent(shape.parts), flat))
            elif form == 'mask':
                objects.append(AnnotatedObject(shape.name, tuple(map(float, shape.box)), run_lengths(shape.mask)))
        image = AnnotatedImage(path, picture.file, HEIGHT, WIDTH, objects, picture.split)
        if form == 'map':
            image.label_map = lambda labels=picture.labels: labels
        images.append(image)
    return AnnotatedDataset(folder, list(CLASSES if form == 'map' else OBJECT_CLASSES), images)


def whole(shape):
    """Whether YOLO can hold a mask: one part without a hole."""
    import cv2

    parts = cv2.connectedComponents(shape.mask.astype(np.uint8), connectivity=4)[0] - 1
    holes = cv2.connectedComponents(np.pad(~shape.mask, 1, constant_values=True).astype(np.uint8), connectivity=8)[0] - 2
    return parts == 1 and holes == 0


EXPECTED = {'box': samples.boxes, 'polygon': samples.grouped, 'mask': samples.masks}
RESOLUTION = {'yolo': 1e-3, 'cvat': 0.011, 'voc': 1e-3}


def check_written(objects, form, format):
    """objects: by stem, each with category, box and mask."""
    for picture in samples.sample():
        found, expected = objects[picture.stem], EXPECTED[form](picture)
        assert [item.category for item in found] == [item.name for item in expected]
        for item, other, shape in zip(found, expected, picture.shapes, strict=True):
            if form == 'polygon' and format == 'voc':  # the corners of a file of whole pixels, around the object
                np.testing.assert_allclose(item.box, other.box, atol=1)
            elif form == 'box' or len(shape.parts) == 1:
                np.testing.assert_allclose(item.box, other.box, atol=RESOLUTION.get(format, 1e-3))
            if form == 'mask' and format == 'yolo' and not whole(shape):
                continue
            if form == 'polygon' and format == 'yolo' and len(shape.parts) > 1:
                assert overlap(item.mask, other.mask) > 0.8
            elif form == 'polygon' and format == 'voc':  # a pixel is of one object there
                alone = sum(one.mask.astype(int) for one in expected) < 2
                np.testing.assert_array_equal(item.mask & alone, other.mask & alone)
            elif form != 'box':
                assert item.mask is not None
                assert overlap(item.mask, other.mask) >= (1 if form == 'mask' else 0.99)


@pytest.mark.parametrize('form', ['box', 'polygon', 'mask'])
@pytest.mark.parametrize('format', sorted(set(FORMATS) - {'masks'}))
def test_what_is_written_is_read_by_another_reader(format, form, tmp_path):
    (tmp_path / 'in').mkdir()
    write_dataset(as_dataset(tmp_path / 'in', form), tmp_path / 'out', format)
    objects = PARSERS[format](tmp_path / 'out')
    assert sorted(objects) == [picture.stem for picture in samples.sample()]
    check_written(objects, form, format)


class _Item:
    def __init__(self, item):
        self.category, self.box = item.category, item.box
        self.mask = None if item.segmentation is None else mask_read(item.segmentation)


@pytest.mark.parametrize('form', ['box', 'polygon', 'mask'])
@pytest.mark.parametrize('format', sorted(set(FORMATS) - {'masks'}))
def test_what_is_written_is_read_again(format, form, tmp_path):
    (tmp_path / 'in').mkdir()
    before = as_dataset(tmp_path / 'in', form)
    write_dataset(before, tmp_path / 'out', format)
    after = read_dataset(tmp_path / 'out')
    assert after.classes == before.classes or (
        format in ('voc', 'labelme', 'label-studio') and after.classes == sorted(before.classes)
    )
    check_images(after.images, samples.sample(), splits=True)
    check_written({image.path.stem: [_Item(item) for item in image.objects] for image in after.images}, form, format)


@pytest.mark.parametrize('kinds', ['one', 'several'])
def test_label_maps_are_read_again(kinds, tmp_path):
    (tmp_path / 'in').mkdir()
    pictures = samples.of_one_kind() if kinds == 'one' else samples.sample()
    write_dataset(as_dataset(tmp_path / 'in', 'map', pictures), tmp_path / 'out', 'masks')
    after = read_dataset(tmp_path / 'out')
    assert after.classes == list(CLASSES)
    check_images(after.images, pictures, splits=True)
    check_label_maps(after.images, pictures, after.classes, CLASSES)


@pytest.mark.parametrize('format', sorted(FORMATS))
def test_nothing_is_copied_where_the_images_stay(format, tmp_path):
    (tmp_path / 'in').mkdir()
    write_dataset(
        as_dataset(tmp_path / 'in', 'map' if format == 'masks' else 'box'), tmp_path / 'out', format, copy_images=False
    )
    assert not [*tmp_path.glob('out/**/scene*.jpg')]
    assert len([*tmp_path.glob('in/scene*')]) == 8


WHOLE = {'coco': 'COCO, boxes', 'yolo': 'YOLO, Roboflow', 'voc': 'VOC', 'labelme': 'LabelMe, rectangles', 'cvat': 'CVAT, boxes'}


@pytest.mark.parametrize('format', [*WHOLE, 'label-studio'])
def test_the_box_of_a_whole_image(format, tmp_path):
    shape = samples.Shape('disc', np.ones((HEIGHT, WIDTH), bool), ())
    pictures = [replace(picture, shapes=(shape,)) for picture in samples.sample()]
    FLAVOURS[WHOLE.get(format, 'Label Studio, rectangles')].write(pictures, tmp_path / 'data')
    for image in read_dataset(tmp_path / 'data', format).images:
        np.testing.assert_allclose(image.objects[0].box, (0, 0, WIDTH, HEIGHT), atol=1e-4)
