"""A training that learns nothing is reported in its first iterations."""

import pytest
import torch
from mmengine.structures import InstanceData, LabelData, PixelData

from mmvitscale.engine.hooks.training_signal import labels_of
from mmvitscale.errors import InputError
from tests.helpers import toy

pytestmark = pytest.mark.unit

BACKBONE = dict(
    type='mmvitscale.SwinTransformerV2', arch=dict(embed_dims=8, depths=(1,), num_heads=(1,)), window_size=4, drop_path_rate=0.0
)


class Sample:
    def __init__(self, **fields):
        self.__dict__.update(fields)


def objects(*labels):
    return Sample(gt_instances=InstanceData(labels=torch.tensor(labels, dtype=torch.long)))


class Labelled(toy.Images):
    """The images of the toy data set, each with a data sample."""

    metainfo = dict(classes=('cat', 'dog'))

    def __init__(self, *samples):
        super().__init__()
        self.samples = samples

    def __getitem__(self, index):
        return dict(super().__getitem__(index), data_samples=self.samples[index % len(self.samples)])


class Model(toy.Toy):
    """With the terms of a detector's loss."""

    def __init__(self, scale=1.0, boxes=1.0):
        super().__init__(BACKBONE)
        self.scale, self.boxes = scale, boxes

    def forward(self, inputs, data_samples=None, mode='tensor'):
        loss = super().forward(torch.stack(list(inputs)))['loss']
        return dict(loss_cls=self.scale * loss, loss_bbox=self.scale * self.boxes * loss)


class Flat(Model):
    """Its loss does not depend on its weights."""

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return {key: 1 + 0 * value for key, value in super().forward(inputs).items()}


def said(tmp_path, model, *samples, max_iters=4, **options):
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        from mmengine.logging import MMLogger

        patch.setattr(MMLogger, 'warning', lambda self, line, *args, **kwargs: lines.append(str(line)))
        toy.train(
            tmp_path,
            None,
            max_iters=max_iters,
            model=model,
            images=Labelled(*samples),
            default_hooks=dict(training_signal=dict(iterations=3)),
            collate=dict(type='pseudo_collate'),
            **options,
        )
    return [line for line in lines if 'first iterations' in line]


def test_nothing_is_reported_of_a_training_that_learns(tmp_path):
    assert not said(tmp_path, Model(), objects(0), objects())
    assert not said(tmp_path / 'short', Model(), objects(0), max_iters=1)


@pytest.mark.parametrize('max_iters', [2, 3, 7])
def test_images_without_an_object_are_named_once(max_iters, tmp_path):
    (line,) = said(tmp_path, Model(), objects(), max_iters=max_iters)
    count = 2 * min(max_iters, 3)
    assert f'no image with an object or a labelled pixel: {count} images were delivered, with no label' in line
    assert 'names or ids in the annotations that are not those of the classes' in line


def test_semantic_maps_of_nothing_but_ignored_pixels_count_as_none(tmp_path):
    ignored = Sample(gt_sem_seg=PixelData(data=torch.full((1, 4, 4), 255)))
    (line,) = said(tmp_path, Model(boxes=0.0), ignored)
    assert 'no image with an object or a labelled pixel' in line
    some = Sample(gt_sem_seg=PixelData(data=torch.tensor([[[255, 1]]])))
    assert not said(tmp_path / 'some', Model(), ignored, some)


def test_objects_that_nothing_is_matched_with_are_named_by_class(tmp_path):
    (line,) = said(tmp_path, Model(boxes=0.0), objects(1, 1), objects(0, 1))
    assert 'no positive sample (loss_bbox of exactly zero)' in line
    assert 'labels by class: 9 of dog, 3 of cat' in line and 'boxes in another unit' in line


def test_a_loss_and_gradients_of_exactly_zero_are_named(tmp_path):
    (line,) = said(tmp_path, Model(scale=0.0), objects(0))
    assert 'a loss of exactly zero and gradients of exactly zero' in line and 'loss_weight of 0' in line

    (line,) = said(tmp_path / 'flat', Flat(), objects(0))
    assert 'gave gradients of exactly zero' in line and 'frozen' in line


def test_labels_of_each_task_are_read():
    assert labels_of(objects(2, 0)) == [2, 0] and labels_of(objects()) == []
    assert labels_of(Sample(gt_sem_seg=PixelData(data=torch.tensor([[[3, 255], [3, 1]]])))) == [1, 3]
    assert labels_of(Sample(gt_label=torch.tensor([4]))) == [4]
    assert labels_of(Sample()) is None and labels_of(None) is None and labels_of(LabelData()) is None


def test_an_impossible_number_of_iterations_is_refused(tmp_path):
    with pytest.raises(InputError, match='iterations=0 found in training_signal'):
        toy.train(tmp_path, BACKBONE, default_hooks=dict(training_signal=dict(iterations=0)))


def test_stuff_counts_where_a_panoptic_image_has_no_object():
    stuff = PixelData(sem_seg=torch.tensor([[[3, 255], [3, 1]]]))
    assert labels_of(Sample(gt_instances=InstanceData(labels=torch.zeros(0)), gt_sem_seg=stuff)) == [1, 3]


def test_the_first_update_of_a_long_accumulation_is_looked_at(tmp_path):
    (line,) = said(tmp_path, Flat(), objects(0), max_iters=6, accumulative_counts=5)
    assert 'gave gradients of exactly zero' in line
