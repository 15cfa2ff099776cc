import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from mmvitscale.analysis.confusion import ConfusionMatrix, box_overlaps, draw_confusion
from mmvitscale.errors import InputError

pytestmark = pytest.mark.unit


def sample_of(**fields):
    sample = BaseDataElement()
    for name, value in fields.items():
        sample.set_field(value, name, dtype=type(value))
    return sample


def test_pixel_confusion_equals_a_per_pixel_count():
    rng = np.random.default_rng(0)
    matrix, expected = ConfusionMatrix(['a', 'b', 'c']), np.zeros((3, 3), int)
    for _ in range(2):
        ground_truth, found = rng.choice([0, 1, 2, 255], (5, 6)), rng.integers(0, 3, (5, 6))
        own = matrix.add(
            sample_of(
                gt_sem_seg=PixelData(data=torch.tensor(ground_truth)[None]),
                pred_sem_seg=PixelData(data=torch.tensor(found)[None]),
            )
        )
        for t, f in zip(ground_truth.flat, found.flat):
            if t != 255:
                expected[t, f] += 1
    assert np.array_equal(matrix.counts, expected) and matrix.unit == 'pixels'
    entry = matrix.per_class()[1]
    assert entry['recall'] == expected[1, 1] / expected[1].sum() and entry['precision'] == expected[1, 1] / expected[:, 1].sum()
    assert entry['iou'] == expected[1, 1] / (expected[1].sum() + expected[:, 1].sum() - expected[1, 1])
    assert matrix.quality(np.diag([3, 0, 1])) == 1 and matrix.quality(own) < 1
    assert draw_confusion(matrix).axes


def test_detections_match_by_score_and_unmatched_count_as_background():
    ground_truth = InstanceData(
        bboxes=torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]]), labels=torch.tensor([0, 1, 1])
    )
    found = InstanceData(
        bboxes=torch.tensor([[0.0, 0, 10, 9], [0, 0, 10, 10], [20, 20, 30, 30], [80, 80, 90, 90], [50, 50, 60, 60]]),
        labels=torch.tensor([1, 0, 0, 1, 1]),
        scores=torch.tensor([0.8, 0.9, 0.7, 0.6, 0.1]),
    )
    matrix = ConfusionMatrix(['a', 'b'], score_thr=0.3)
    own = matrix.add(sample_of(gt_instances=ground_truth, pred_instances=found))
    # The better-scored box takes the first object; the second taken for a is wrong; the third is missed, for its score.
    assert own.tolist() == [[1, 0, 0], [1, 0, 1], [0, 2, 0]] and matrix.names == ['a', 'b', 'background']
    assert matrix.quality(own) == pytest.approx((1 / 2 + 0) / 2)
    nothing = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long), scores=torch.zeros(0))
    assert matrix.add(sample_of(gt_instances=nothing, pred_instances=nothing)).sum() == 0
    assert matrix.quality(np.zeros((3, 3))) is None


def test_box_iou_and_image_level_confusion_equal_hand_computed_values():
    assert box_overlaps(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 1, 3, 3], [5, 5, 6, 6]])).tolist() == [
        [pytest.approx(1 / 7), 0]
    ]
    matrix = ConfusionMatrix(['a', 'b'])
    matrix.add(BaseDataElement(gt_label=torch.tensor([1]), pred_label=torch.tensor([0])))
    assert matrix.counts.tolist() == [[0, 0], [1, 0]] and matrix.unit == 'images'
    assert matrix.per_class()[0]['recall'] is None and matrix.per_class()[1]['recall'] == 0
    with pytest.raises(InputError, match='come without ground truth'):
        matrix.add(BaseDataElement(pred_label=torch.tensor([0])))
