"""Our count of the annotations that are learned and evaluated, against mmdet's data set and pycocotools themselves."""

import contextlib
import io
import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.config import ConfigDict

from mmvitscale.datasets import annotation_losses as losses
from mmvitscale.datasets.annotation_losses import Counts, Use
from mmvitscale.datasets.coco import check_content
from mmvitscale.datasets.coco_evaluation import complete_ground_truth
from mmvitscale.datasets.delivered import delivered_objects
from mmvitscale.errors import InputError

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures('mmdet_scope')]

CLASSES = ('cat', 'dog')
TRIANGLE = [4.0, 4.0, 20.0, 4.0, 4.0, 20.0]


def item(**changes):
    """An annotation of a cat that is learned."""
    return dict(dict(image_id=1, category_id=7, bbox=[4, 4, 16, 16], area=128, iscrowd=0, segmentation=[TRIANGLE]), **changes)


def coco(*items):
    """One image of 60 x 40 and a small one, with these annotations and a good one of each class."""
    good = [item(), item(category_id=3)]
    return dict(
        images=[
            dict(id=1, file_name='a.jpg', width=60, height=40),
            dict(id=2, file_name='b.jpg', width=60, height=20),
        ],
        categories=[dict(id=7, name='cat'), dict(id=3, name='dog'), dict(id=5, name='cow')],
        annotations=[dict(one, id=number) for number, one in enumerate([*good, *items])],
    )


def delivered(content, folder, use, **options):
    (folder / 'a.json').write_text(json.dumps(content))
    described = ConfigDict(
        type='CocoDataset',
        ann_file=str(folder / 'a.json'),
        data_prefix=dict(img=str(folder)),
        metainfo=dict(classes=CLASSES),
        filter_cfg=dict(filter_empty_gt=True, min_size=use.min_size),
        pipeline=[dict(type='LoadAnnotations', with_bbox=True, with_mask=use.with_mask)],
        **options,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        return delivered_objects(described)


LEARNING = Use(True, with_mask=True, min_size=32)
RLE = dict(size=[40, 60], counts=[100, 50, 40 * 60 - 150])


@pytest.mark.parametrize(
    'bad, cause',
    [
        (dict(image_id=9), losses.NOT_LISTED),
        (dict(category_id=5), losses.OTHER_CLASS),
        (dict(category_id=99), losses.OTHER_CLASS),
        (dict(ignore=1), losses.IGNORED),
        (dict(iscrowd=1), losses.CROWD),
        (dict(bbox=[60, 4, 16, 16]), losses.OUTSIDE),
        (dict(bbox=[-16, 4, 16, 16]), losses.OUTSIDE),
        (dict(bbox=[4, 4, 0, 16]), losses.NO_SIZE),
        (dict(bbox=[4, 4, 0.9, 16]), losses.NO_SIZE),
        (dict(bbox=[4, 4, 16, 0.5]), losses.NO_SIZE),
        (dict(area=0), losses.NO_AREA),
        (dict(area=-5), losses.NO_AREA),
        (dict(segmentation=[[]]), losses.NO_POLYGON),
        (dict(segmentation=[[1, 2, 3, 4]]), losses.NO_POLYGON),
        (dict(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), losses.NO_POLYGON),
        (dict(image_id=2), losses.SMALL_IMAGE),
        ({}, None),
        (dict(segmentation=RLE), None),
        (dict(segmentation=[[1, 2], TRIANGLE]), None),
        (dict(bbox=[50, 30, 100, 100]), None),
        (dict(iscrowd=None, ignore=None), None),
    ],
)
def test_every_way_in_which_mmdet_drops_an_annotation_is_counted_with_its_cause(bad, cause, tmp_path):
    content = coco(item(**bad))
    counts = Counts.of(content, CLASSES, LEARNING)
    assert counts.used == delivered(content, tmp_path, LEARNING) == Counter(cat=1 + (cause is None), dog=1)
    assert list(counts.lost) == ([] if cause is None else [cause])
    for line in counts.notes(training=True):
        assert line.startswith('not learned: 1 annotation ' + cause)


NUMBERS = st.sampled_from([-70, -16, -1, 0, 0.5, 1, 4, 16, 20, 39, 60, 100])
ITEMS = st.lists(
    st.builds(
        item,
        image_id=st.sampled_from([1, 1, 1, 2, 9]),
        category_id=st.sampled_from([7, 7, 3, 3, 5, 99]),
        bbox=st.tuples(NUMBERS, NUMBERS, NUMBERS.map(abs), NUMBERS.map(abs)).map(list),
        area=st.sampled_from([0, 1, 128, -1, 1e11]),
        iscrowd=st.sampled_from([0, 0, 0, 1]),
        ignore=st.sampled_from([0, 0, 0, 1]),
        segmentation=st.sampled_from([[TRIANGLE], [[]], [[1, 2, 3, 4]], [[1, 2, 3, 4], TRIANGLE], RLE]),
    ),
    max_size=8,
)
MANY = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)


@MANY
@given(ITEMS, st.booleans(), st.sampled_from([0, 32]))
def test_the_count_of_a_class_equals_what_the_loaded_data_set_delivers(tmp_path, items, with_mask, min_size):
    content, use = coco(*items), Use(True, with_mask, min_size)
    assert Counts.of(content, CLASSES, use).used == delivered(content, tmp_path, use)


def scored(content, with_mask):
    """By class, the annotations that pycocotools' evaluation finds where every object is predicted as far as it lies in its
    image."""
    from mmdet.datasets.api_wrappers import COCO, COCOeval

    metric = SimpleNamespace(_coco_api=COCO())
    metric._coco_api.dataset = json.loads(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        complete_ground_truth(metric, [])
        api = metric._coco_api
        sizes = {image['id']: (image['width'], image['height']) for image in api.dataset['images']}
        found = []
        for one in api.dataset['annotations']:
            if one['image_id'] in sizes:
                (left, top, w, h), (width, height) = one['bbox'], sizes[one['image_id']]
                x, y = np.clip([left, left + w], 0, width), np.clip([top, top + h], 0, height)
                box = [float(v) for v in (x[0], y[0], x[1] - x[0], y[1] - y[0])]
                mask = dict(segmentation=api.annToRLE(one)) if with_mask else {}
                found.append(dict(image_id=one['image_id'], category_id=one['category_id'], score=1.0, **mask))
                found[-1].update({} if with_mask else dict(bbox=box))
        evaluation = COCOeval(api, api.loadRes(found), 'segm' if with_mask else 'bbox')
        names = {category['id']: category['name'] for category in content['categories']}
        evaluation.params.catIds = [category for category, name in names.items() if name in CLASSES]
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.evaluate()
    counts = Counter()
    for entry in evaluation.evalImgs:
        if entry is not None and entry['aRng'] == evaluation.params.areaRng[0]:
            learned = (np.array(entry['gtMatches'][0]) > 0) & (np.array(entry['gtIgnore']) == 0)
            counts[names[entry['category_id']]] += int(learned.sum())
    return +counts


@pytest.mark.parametrize(
    'bad, cause',
    [
        (dict(iscrowd=1), losses.CROWD),
        (dict(bbox=[30, 20, 100, 100]), losses.BEYOND),
        (dict(bbox=[0, 0, 100, 100]), losses.BEYOND),
        (dict(bbox=[70, 4, 16, 16]), losses.OUTSIDE),
        (dict(bbox=[4, 4, 0, 16]), losses.NO_SIZE),
        (dict(area=-1), losses.NO_AREA),
        (dict(area=2e10), losses.TOO_LARGE),
        (dict(bbox=[55, 4, 8, 16]), None),
        (dict(ignore=1, area=0), None),
        (dict(image_id=2, bbox=[4, 4, 10, 10]), None),
    ],
)
def test_annotations_that_no_prediction_can_match_are_counted_with_their_cause(bad, cause):
    content = coco(item(**bad))
    counts = Counts.of(content, CLASSES, Use(False))
    assert counts.used == scored(content, False) == Counter(cat=1 + (cause is None), dog=1)
    assert list(counts.lost) == ([] if cause is None else [cause])


@MANY
@given(ITEMS.filter(lambda items: all(one['bbox'][2] * one['bbox'][3] for one in items)))
def test_the_count_of_a_class_equals_what_the_evaluation_can_find(items):
    # Objects of a class that lie on one another are matched by any of their predictions: one of each kind is enough.
    content = coco()
    for one in items:
        content['annotations'] = [dict(one, id=0), dict(item(image_id=1, category_id=3, bbox=[40, 20, 10, 10]), id=1)]
        assert Counts.of(content, CLASSES, Use(False)).used == scored(content, False)


@pytest.mark.parametrize(
    'mask, used',
    [([TRIANGLE], 1), (RLE, 1), ([[]], 0), ([[1, 2, 3, 4]], 0), ([[4, 4, 8, 8, 12, 12]], 0), ([[4, 4, 4, 4, 4, 4]], 0)],
)
def test_masks_without_a_pixel_are_counted_as_never_found(mask, used):
    content = coco(item(category_id=3, segmentation=mask))
    assert Counts.of(content, CLASSES, Use(False, with_mask=True)).used == scored(content, True) == Counter(cat=1, dog=1 + used)


def test_a_class_of_which_nothing_is_left_is_refused_with_the_cause_and_what_helps(tmp_path):
    for name in ('a.jpg', 'b.jpg'):
        (tmp_path / name).write_text('')
    content = coco(item(category_id=3))

    def checked(use):
        counts = check_content(content, tmp_path / 'a.json', tmp_path, CLASSES, use)[0]
        counts.check([tmp_path / 'a.json'], CLASSES, use.training)
        return counts

    for one in content['annotations']:
        one['iscrowd'] = int(one['category_id'] == 3)
    with pytest.raises(
        InputError, match='none of the 2 annotations of class dog .* learned: 2 marked iscrowd; set iscrowd to 0'
    ):
        checked(Use(True))
    for one in content['annotations']:
        one['iscrowd'] = 0  # the advice, followed
    assert checked(Use(True)).used == Counter(cat=1, dog=2)
    for one in content['annotations']:
        one['bbox'] = [0, 0, 300, 300]
    with pytest.raises(InputError, match='none of the .* can be found in the evaluation: 1 with a box of which more than half'):
        checked(Use(False))
