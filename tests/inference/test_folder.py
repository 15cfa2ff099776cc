import numpy as np
import pytest
import torch

from mmvitscale.inference.folder import _attempt, _Prepared, batches

pytestmark = pytest.mark.unit


def test_images_of_one_size_go_together_and_none_is_forgotten():
    items = list('aababbcaab')
    found = list(batches(iter(items), lambda item: item, 2))
    assert sorted(sum(found, [])) == sorted(items)
    assert all(len(set(batch)) == 1 and len(batch) <= 2 for batch in found)
    assert sum(len(batch) == 2 for batch in found) == 4
    many = list(batches(iter(range(100)), lambda item: item, 2))  # no two equal: what waits is bounded
    assert many[0] in ([0], [7]) and sorted(sum(many, [])) == list(range(100))
    assert list(batches([], lambda item: item, 3)) == []


def test_an_image_that_the_model_cannot_take_does_not_end_its_batch():

    class Predictor:
        def predict(self, batch):
            if any(inputs == 'bad' for inputs in batch):
                raise RuntimeError('sizes do not fit\nmore')
            return [f'sample of {inputs}' for inputs in batch]

    failures = []
    items = [_Prepared(name, np.zeros(1), name) for name in ('a', 'bad', 'c')]
    found = [(item.path, sample) for item, sample in _attempt(Predictor(), items, failures)]
    assert found == [('a', 'sample of a'), ('c', 'sample of c')]
    assert failures == ['bad cannot be predicted (RuntimeError: sizes do not fit)']


def test_memory_that_runs_out_is_a_failure_of_the_image():

    class Predictor:
        def predict(self, batch):
            raise torch.OutOfMemoryError('out of memory')

    failures = []
    assert list(_attempt(Predictor(), [_Prepared('a', np.zeros(1), 'a')], failures)) == []
    assert failures == ['a cannot be predicted (OutOfMemoryError: out of memory)']
