"""Annotation files that cannot work, and those that can."""

import copy
import json
import re

import pytest

from mmvitscale.datasets.annotation_losses import Use
from mmvitscale.datasets.coco import check_coco
from mmvitscale.errors import InputError

pytestmark = pytest.mark.unit

GOOD = dict(
    images=[dict(id=1, file_name='a.jpg', height=40, width=60), dict(id=2, file_name='sub/b.jpg', height=40, width=60)],
    categories=[dict(id=5, name='cat'), dict(id=3, name='dog')],
    annotations=[
        dict(id=1, image_id=1, category_id=5, bbox=[1, 2, 10, 10], area=100, segmentation=[[1, 2, 11, 2, 11, 12]]),
        dict(id=2, image_id=2, category_id=3, bbox=[1, 2, 10, 10.5], area=100, segmentation=[[1, 2, 3, 4, 5, 6]]),
    ],
)
CLASSES = ('cat', 'dog')


@pytest.fixture
def check(tmp_path):
    """Writes a changed copy of GOOD and checks it."""
    (tmp_path / 'img/sub').mkdir(parents=True)
    for name in ('a.jpg', 'sub/b.jpg'):
        (tmp_path / 'img' / name).write_text('')

    def run(change=lambda content: None, classes=CLASSES, training=True, with_mask=True):
        content = copy.deepcopy(GOOD)
        content = change(content) or content
        (tmp_path / 'a.json').write_text(content if isinstance(content, str) else json.dumps(content))
        counts, notes = check_coco(tmp_path / 'a.json', tmp_path / 'img', classes, Use(training, with_mask))
        counts.check([tmp_path / 'a.json'], classes, training)
        return notes

    return run


def test_a_valid_annotation_file_gives_no_notes(check):
    assert check() == []


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda c: '{"images": [', r'a\.json is not JSON in UTF-8 \(Expecting value: line 1 column 13'),
        (lambda c: '[]', 'holds a list, but COCO format is an object with images, annotations and categories'),
        (lambda c: c.pop('categories') and None, 'no list of categories'),
        (lambda c: c.update(categories=[]), 'an empty list of categories'),
        (lambda c: c.update(images=[]), 'an empty list of images'),
        (lambda c: c.pop('annotations') and None, 'no list of annotations'),
        (lambda c: c['images'][1].pop('width') and None, r'images\[1\] in .*a\.json has no width'),
        (lambda c: c['annotations'][0].pop('area') and None, r'annotations\[0\] in .*a\.json has no area'),
        (lambda c: c['annotations'][1].update(bbox=[1, 2, 3]), r'annotations\[1\] .* has the bbox \[1, 2, 3\], but a bbox is'),
        (lambda c: c['annotations'][1].update(bbox=[1, 2, 3, float('nan')]), r'has the bbox \[1, 2, 3, nan\]'),
        (lambda c: c['annotations'][1].update(id=1), 'uses the annotation id 1 twice'),
        (lambda c: c['images'][1].update(file_name='sub/c.jpg'), r'1 of 2 images .* are not in .*img \(sub/c\.jpg\)'),
        (lambda c: c['images'][1].update(file_name='no/b.jpg'), r'1 of 2 images .* are not in .*img \(no/b\.jpg\)'),
        (
            lambda c: c['annotations'][1].update(segmentation=[]),
            r'1 of 2 annotations .* have no segmentation \(the first: id 2',
        ),
        (lambda c: c.update(annotations=[]), r'has no box of any of the 2 classes \(cat, dog\)'),
    ],
)
def test_invalid_annotation_files_are_refused_with_the_reason(check, change, message):
    with pytest.raises(InputError) as error:
        check(change)
    assert re.search(message, str(error.value)) and '\n' not in str(error.value)


def test_classes_must_be_categories_in_the_same_order(check):
    with pytest.raises(InputError, match=r"categories cat, dog, but 1 of the config's 2 classes are not among them \(cow\)"):
        check(classes=('cat', 'cow'))
    with pytest.raises(InputError, match='in the order cat, dog, but the config its classes as dog, cat'):
        check(classes=('dog', 'cat'))


def test_ignored_boxes_classes_and_annotations_are_noted(check):
    def flatten(content):
        content['annotations'].append(dict(copy.deepcopy(content['annotations'][0]), id=3))
        content['annotations'][0]['bbox'][2] = 0

    assert [note.split(': ', 1)[1] for note in check(flatten)] == [
        'not learned: 1 annotation with a box of less than a pixel (ids 1); a bbox is [left, top, width, height] in pixels: '
        'correct them',
    ]
    for box in ([70, 2, 10, 10], [-20, 2, 10, 10]):
        with pytest.raises(InputError, match='none of the 1 annotations of class cat .* 1 with a box outside the image'):
            check(lambda c: c['annotations'][0].update(bbox=box))
    with pytest.raises(InputError, match='the latter two not negative'):
        check(lambda c: c['annotations'][0].update(bbox=[1, 2, -3, 10]))
    assert 'not learned: 1 annotation of categories that are no class of the config (dog)' in check(classes=('cat',))[0]
    assert '1 annotation of images that are not listed' in check(lambda c: c['annotations'][0].update(image_id=9))[0]


def test_testing_needs_neither_annotations_nor_boxes(check):
    assert check(lambda c: c.pop('annotations') and None, training=False) == []
    check(lambda c: c.update(annotations=[]), training=False)


def test_boxes_only_need_no_segmentation(check):
    assert check(lambda c: [item.pop('segmentation') for item in c['annotations']] and None, with_mask=False) == []
