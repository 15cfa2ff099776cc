"""mmdet's COCO metrics on annotation files as people have them."""

import json

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import Evaluator

from mmvitscale.datasets.coco_evaluation import (
    check_evaluator,
    complete_ground_truth,
    complete_ground_truths,
    evaluated_files,
    without_further_files,
)
from mmvitscale.errors import InputError

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures('mmdet_scope')]

CLASSES = ('cat', 'dog')


def write(folder, boxes, categories=CLASSES, first=0, **more):
    """A COCO file with an image for each box, ids from ``first`` on; classes by turns."""
    folder.mkdir(exist_ok=True)
    content = dict(
        images=[dict(id=first + i, file_name=f'{i}.jpg', width=60, height=40) for i in range(len(boxes))],
        categories=[dict(id=first + i, name=name) for i, name in enumerate(categories)],
        annotations=[
            dict(id=first + i, image_id=first + i, category_id=first + i % 2, bbox=box, area=box[2] * box[3], **more)
            for i, box in enumerate(boxes)
        ],
    )
    (folder / 'a.json').write_text(json.dumps(content))
    return folder / 'a.json'


def config(*files, evaluator=None):
    datasets = [
        ConfigDict(
            type='CocoDataset', ann_file=str(file), data_prefix=dict(img=str(file.parent)), metainfo=dict(classes=CLASSES)
        )
        for file in files
    ]
    dataset = datasets[0] if len(datasets) == 1 else ConfigDict(type='ConcatDataset', datasets=datasets)
    evaluator = evaluator or dict(type='CocoMetric', ann_file=str(files[0]))
    return Config(dict(default_scope='mmdet', val_dataloader=dict(dataset=dataset), val_evaluator=evaluator))


def score(cfg, boxes_of):
    """mAP of bounding boxes where these are predicted: file -> boxes, an image each."""
    check_evaluator(cfg, 'val')
    evaluator = Evaluator(without_further_files(cfg.val_evaluator))
    evaluator.dataset_meta = dict(classes=CLASSES)
    complete_ground_truths(evaluator, cfg.val_evaluator, evaluated_files(cfg, 'val'))
    count = 0
    for file, boxes in boxes_of.items():
        ids = [image['id'] for image in json.loads(file.read_text())['images']]
        for i, (left, top, width, height) in enumerate(boxes):
            predicted = dict(
                bboxes=torch.tensor([[left, top, left + width, top + height]]).float(),
                scores=torch.ones(1),
                labels=torch.tensor([i % 2]),
            )
            sample = dict(img_id=ids[i], img_path=str(file.parent / f'{i}.jpg'), ori_shape=(40, 60), pred_instances=predicted)
            evaluator.metrics[0].process({}, [sample])
            count += 1
    return evaluator.evaluate(count)['coco/bbox_mAP']


SOME, OTHERS = [[4, 4, 10, 10], [20, 8, 16, 20]], [[30, 5, 20, 30], [1, 1, 5, 30]]


@pytest.mark.parametrize('kind', ['CocoMetric', 'FasterCocoMetric', 'mmdet.CocoMetric'])
@pytest.mark.parametrize('more', [dict(iscrowd=0), {}, dict(iscrowd=None)])
def test_annotations_of_id_0_and_without_iscrowd_are_scored(kind, more, tmp_path):
    file = write(tmp_path / 'one', SOME, **more)
    assert score(config(file, evaluator=dict(type=kind, ann_file=str(file))), {file: SOME}) == 1.0


def test_every_file_of_a_concatenated_data_set_is_scored(tmp_path):
    files = [write(tmp_path / 'one', SOME), write(tmp_path / 'two', OTHERS, first=0)]  # with the same ids
    for own in (str(files[0]), [str(file) for file in files], None):
        cfg = config(*files, evaluator=dict(type='CocoMetric', ann_file=own))
        assert score(cfg, {files[0]: SOME, files[1]: OTHERS}) == 1.0
        assert score(cfg, {files[0]: SOME, files[1]: SOME}) < 0.7


def test_files_that_cannot_be_scored_together_are_refused(tmp_path):
    one, two = write(tmp_path / 'one', SOME), write(tmp_path / 'two', OTHERS, categories=CLASSES[::-1])
    with pytest.raises(InputError, match='has other categories, or in another order'):
        score(config(one, two), {one: SOME})
    with pytest.raises(InputError, match='is listed twice in the data sets'):
        score(config(one, one), {one: SOME})
    with pytest.raises(InputError, match='val_evaluator reads .*two.*; give both the same ann_file'):
        score(config(one, evaluator=dict(type='CocoMetric', ann_file=str(two))), {one: SOME})


def test_masks_that_pycocotools_never_ends_with_are_scored_as_empty(tmp_path):
    file = write(tmp_path / 'one', SOME, segmentation=[[]])
    evaluator = Evaluator(without_further_files(dict(type='CocoMetric', ann_file=str(file), metric='segm')))
    complete_ground_truth(evaluator.metrics[0], [(file, file.parent)])
    api = evaluator.metrics[0]._coco_api
    assert [api.annToMask(item).sum() for item in api.dataset['annotations']] == [0, 0]


def test_categories_that_are_sorted_by_id_are_sorted_in_every_file(tmp_path):
    files = [write(tmp_path / name, boxes, first=3) for name, boxes in (('one', SOME), ('two', OTHERS))]
    for file in files:
        content = json.loads(file.read_text())
        content['categories'].reverse()
        file.write_text(json.dumps(content))
    cfg = config(*files, evaluator=dict(type='CocoMetric', ann_file=str(files[0]), sort_categories=True))
    assert score(cfg, {files[0]: SOME, files[1]: OTHERS}) == 1.0


def test_evaluators_with_a_metric_for_each_data_set_keep_their_files(tmp_path):
    from mmengine.registry import EVALUATOR

    files = [write(tmp_path / 'one', SOME), write(tmp_path / 'two', OTHERS[:1], categories=('bird', 'fish'))]
    described = dict(
        type='MultiDatasetsEvaluator',
        metrics=[dict(type='CocoMetric', ann_file=str(file)) for file in files],
        dataset_prefixes=['one', 'two'],
    )
    evaluator = EVALUATOR.build(described)
    complete_ground_truths(evaluator, described, evaluated_files(config(*files), 'val'))
    assert [len(metric._coco_api.dataset['images']) for metric in evaluator.metrics] == [2, 1]
    assert [item['id'] for item in evaluator.metrics[0]._coco_api.dataset['annotations']] == [1, 2]


def test_panoptic_files_and_other_metrics_are_left_alone(tmp_path):
    file = write(tmp_path / 'one', SOME)
    cfg = config(file)
    cfg.val_dataloader.dataset.type = 'CocoPanopticDataset'
    check_evaluator(cfg, 'val')  # which may have boxes of another file
    assert evaluated_files(cfg, 'val') == []
    evaluator = Evaluator(dict(type='DumpDetResults', out_file_path='a.pkl'))
    complete_ground_truths(evaluator, {}, [(file, file.parent)] * 2)
