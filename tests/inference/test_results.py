import json

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from mmvitscale.datasets.coco_masks import encode_mask
from mmvitscale.errors import InputError
from mmvitscale.inference.annotation_ids import AnnotationIds
from mmvitscale.inference.results import Results, check_kinds, counts_from_one
from tests.helpers.loaded import load

pytestmark = pytest.mark.unit

META = dict(classes=('cat', 'dog'))


def results(meta=META, annotations=None, scope='mmdet'):
    return Results(ConfigDict(default_scope=scope), meta, AnnotationIds(annotations) if annotations else None)


def sample_of(**fields):
    sample = BaseDataElement()
    for name, value in fields.items():
        sample.set_field(value, name, dtype=type(value))
    return sample


@pytest.mark.integration
@pytest.mark.parametrize('size', [(1, 1), (5, 7), (30, 20)])
def test_run_lengths_are_those_of_coco(size):
    from pycocotools import mask as coco

    rng = np.random.default_rng(0)
    for share in (0, 0.2, 0.5, 1):
        mask = rng.random(size) < share
        expected = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert encode_mask(mask) == dict(size=list(size), counts=expected['counts'].decode())
        whole = np.zeros((40, 50), np.uint8)
        whole[3 : 3 + size[0], 9 : 9 + size[1]] = mask
        assert np.array_equal(coco.decode(encode_mask(mask, (9, 3), (40, 50))), whole)


@pytest.mark.integration
def test_label_maps_have_the_values_of_the_data_set():
    assert counts_from_one(load('swinv2_upernet_mini')) and counts_from_one(load('swinv2_upernet_ade20k'))
    assert not counts_from_one(load('swinv2_mask_rcnn_mini'))
    assert not counts_from_one(load('swinv2-t-w16-in1k_upernet_4xb2-80k_cityscapes-512x1024'))
    made = Results(load('swinv2_upernet_mini'), META)
    assert [(entry['value'], entry['name']) for entry in made.classes_file()] == [(1, 'cat'), (2, 'dog')]
    labels = made.labels(sample_of(pred_sem_seg=PixelData(data=torch.tensor([[[0, 1, 255]]]))))
    assert labels.tolist() == [[1, 2, 255]] and labels.dtype == np.uint8
    many = Results(load('swinv2_upernet_mini'), dict(classes=[str(i) for i in range(255)]))
    assert many.label_values(np.array([[254, 255]])).tolist() == [[255, 65535]]


def test_scores_are_probabilities_and_logits_as_they_are():
    logits = torch.randn(2, 3, 4)
    sample = sample_of(seg_logits=PixelData(data=logits))
    assert np.array_equal(results().logits(sample), logits.numpy())
    assert np.allclose(results().scores(sample), logits.softmax(0), atol=1e-3)
    one = sample_of(seg_logits=PixelData(data=logits[:1]))
    assert np.allclose(results().scores(one), logits[:1].sigmoid(), atol=1e-3)
    detected = sample_of(pred_instances=InstanceData(bboxes=torch.zeros(0, 4)))
    for kind in ('labels', 'scores', 'logits'):
        with pytest.raises(InputError, match=f'--save {kind} found, but this model does detection'):
            getattr(results(), kind)(detected)


@pytest.mark.integration
def test_json_holds_class_shares_labels_or_segments_by_task(tmp_path):
    shares = results().json(sample_of(pred_sem_seg=PixelData(data=torch.tensor([[[0, 1, 1, 1]]]))), 'a.png', (1, 4))
    assert shares == dict(file_name='a.png', width=4, height=1, shares=dict(dog=0.75, cat=0.25))
    label = BaseDataElement(pred_label=torch.tensor([1]), pred_score=torch.tensor([0.25, 0.75]))
    assert results().json(label, 'a.png', (1, 4))['label'] == 'dog'
    segments = BaseDataElement()
    segments.set_field(PixelData(sem_seg=torch.tensor([[[1, 1001, 2001, 2]]])), 'pred_panoptic_seg', dtype=PixelData)
    found = results().json(segments, 'a.png', (1, 4), 'a')
    assert [(s['id'], s['category'], s['area']) for s in found['segments_info']] == [
        (1, 'dog', 1),
        (2, 'dog', 1),
        (3, 'dog', 1),
    ]
    assert results().labels(segments).tolist() == [[[0, 0, 1], [0, 0, 2], [0, 0, 3], [0, 0, 0]]]  # 2 is no class


@pytest.mark.integration
def test_coco_files_take_the_ids_of_an_annotation_file(tmp_path):
    ground_truth = dict(images=[dict(id=77, file_name='b.png')], categories=[dict(id=18, name='dog'), dict(id=17, name='cat')])
    (tmp_path / 'ground_truth.json').write_text(json.dumps(ground_truth))
    made = results(annotations=str(tmp_path / 'ground_truth.json'))
    instances = InstanceData(
        bboxes=torch.tensor([[1.0, 2, 4, 6]]),
        scores=torch.tensor([0.5]),
        labels=torch.tensor([1]),
        masks=np.ones((1, 8, 9), bool),
    )
    for name in ('a', 'b'):
        content = made.json(sample_of(pred_instances=instances), f'sub/{name}.png', (8, 9))
        (tmp_path / f'{name}.json').write_text(json.dumps(content))
    places = {f'sub/{name}.png': tmp_path / f'sub/{name}.png' for name in ('a', 'b')}
    assert made.merge([tmp_path / 'a.json', tmp_path / 'b.json'], tmp_path, places) == 1  # has no id
    found = json.loads((tmp_path / 'coco_results.json').read_text())
    assert [(entry['image_id'], entry['category_id'], entry['bbox']) for entry in found] == [
        (78, 18, [1, 2, 3, 4]),
        (77, 18, [1, 2, 3, 4]),
    ]
    whole = json.loads((tmp_path / 'coco.json').read_text())
    assert [image['id'] for image in whole['images']] == [78, 77] and whole['annotations'][0]['area'] == 72
    assert whole['categories'] == [dict(id=17, name='cat'), dict(id=18, name='dog')]
    with pytest.raises(InputError, match="has no category 'bird'"):
        results(dict(classes=('bird',)), str(tmp_path / 'ground_truth.json'))
    with pytest.raises(InputError, match='cannot be read as a COCO file'):
        results(annotations=str(tmp_path / 'nothing.json'))


def test_classes_of_one_name_are_all_in_the_scores():
    classes = ['crane', 'dog', 'crane']
    made = results(dict(classes=classes), scope='mmpretrain')
    label = BaseDataElement(pred_label=torch.tensor([2]), pred_score=torch.tensor([0.25, 0.25, 0.5]))
    content = made.json(label, 'a.png', (1, 4))
    assert content['scores'] == {'crane (0)': 0.25, 'dog': 0.25, 'crane (2)': 0.5} and content['label'] == 'crane (2)'
    shares = made.shares([1, 0, 3, 5])  # the last is of no class
    assert shares == {'crane (2)': 0.75, 'crane (0)': 0.25}
    assert [entry['name'] for entry in made.classes_file()] == list(content['scores'])


@pytest.mark.integration
def test_what_a_task_does_not_have_is_refused_by_its_config():
    segmentation, detection = load('swinv2_upernet_mini'), load('swinv2_mask_rcnn_mini')
    classification, panoptic = ConfigDict(default_scope='mmpretrain'), ConfigDict(default_scope='mmdet')
    panoptic.model = dict(panoptic_fusion_head=dict(num_things_classes=80), test_cfg=dict(panoptic_on=True))
    check_kinds(segmentation, ['labels', 'scores', 'logits', 'json'], False)
    check_kinds(segmentation, ['labels', 'json'], True)
    check_kinds(detection, ['json'], True)
    check_kinds(panoptic, ['labels', 'json'], False)
    for cfg, kind, task in (
        (detection, 'labels', 'detection'),
        (detection, 'logits', 'detection'),
        (classification, 'scores', 'classification'),
        (panoptic, 'logits', 'panoptic segmentation'),
    ):
        with pytest.raises(InputError, match=f'--save {kind} found, but this model does {task}'):
            check_kinds(cfg, ['json', kind], False)
    for cfg in (classification, panoptic):
        with pytest.raises(InputError, match='only semantic maps and instances of tiles can be joined'):
            check_kinds(cfg, ['json'], True)
    panoptic.model.test_cfg.panoptic_on = False  # Mask2Former for instances
    with pytest.raises(InputError, match='this model does detection'):
        check_kinds(panoptic, ['labels'], False)
