"""Batches that mark where they are padded."""

import copy
import pickle

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from mmvitscale.models.layers.padding import split_validity, valid_sizes
from mmvitscale.registry import MODELS

pytestmark = pytest.mark.integration

NORMALISED = dict(mean=[100.0] * 3, std=[50.0] * 3)


def detection(**options):
    return MODELS.build(dict(type='mmvitscale.DetPaddingPreprocessor', pad_size_divisor=32, **NORMALISED, **options))


def batch(*sizes):
    samples = [
        DetDataSample(metainfo=dict(img_shape=size), gt_instances=InstanceData(bboxes=torch.zeros(0, 4))) for size in sizes
    ]
    return dict(inputs=[torch.randint(1, 255, (3, *size)) for size in sizes], data_samples=samples)


@pytest.mark.parametrize('training', [True, False])
def test_padded_batches_get_a_validity_channel(training):
    data = batch((64, 40), (33, 64))
    plain = MODELS.build(dict(type='mmdet.DetDataPreprocessor', pad_size_divisor=32, **NORMALISED))
    expected = plain(copy.deepcopy(data), training)
    found = detection()(data, training)
    image, validity = split_validity(found['inputs'], 3)
    assert torch.equal(image, expected['inputs']) and found['data_samples'][0].batch_input_shape == (64, 64)
    assert validity[0].sum() == 64 * 40 and validity[1, :33].all() and not validity[1, 33:].any()
    assert valid_sizes(validity, 16) == [(4, 3), (3, 4)]


def test_unpadded_batches_get_no_validity_channel():
    assert detection()(batch((64, 64), (64, 64)))['inputs'].shape == (2, 3, 64, 64)


def test_padding_is_zero_whatever_the_pad_value():
    found = detection(pad_value=7)(batch((64, 40), (33, 64)))['inputs']
    assert not found[0, :3, :, 40:].any()


class Augment(torch.nn.Module):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, inputs, samples):
        return self.change(inputs), samples


@pytest.mark.parametrize(
    'sizes, change, expected',
    [
        (((64, 32), (64, 64)), lambda x: torch.nn.functional.interpolate(x, (96, 96), mode='bilinear'), [(6, 3), (6, 6)]),
        (((40, 50), (64, 64)), lambda x: torch.nn.functional.interpolate(x, (160, 160), mode='bilinear'), [(7, 8), (10, 10)]),
        (((64, 64), (64, 64)), lambda x: torch.nn.functional.pad(x, (0, 32, 0, 32)), [(4, 4), (4, 4)]),
    ],
)
def test_batch_augmentations_transform_the_validity_channel(sizes, change, expected):
    model = detection()
    model.batch_augments = torch.nn.ModuleList([Augment(change)])
    found = model(batch(*sizes), True)['inputs']
    assert found.shape[1] == 4 and valid_sizes(found[:, 3], 16) == expected


def test_padded_segmentation_crops_get_a_validity_channel():
    model = MODELS.build(dict(type='mmvitscale.SegPaddingPreprocessor', size=(64, 64), **NORMALISED))
    inputs = [torch.randint(1, 255, (3, *size)) for size in ((64, 64), (50, 30))]
    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, *image.shape[1:]))) for image in inputs]
    found = model(dict(inputs=inputs, data_samples=samples), True)['inputs']
    assert found.shape == (2, 4, 64, 64) and found[1, 3].sum() == 50 * 30
    assert model(dict(inputs=inputs[:1], data_samples=samples[:1]), False)['inputs'].shape == (1, 3, 64, 64)


@pytest.mark.parametrize('value', [0, 1, 114])
def test_padding_of_a_batch_augmentation_is_no_image_whatever_it_pads_with(value):
    augments = [dict(type='mmdet.BatchFixedSizePad', size=(96, 128), img_pad_value=value)]
    found = detection(batch_augments=augments)(batch((64, 40), (33, 64)), True)['inputs']
    assert valid_sizes(found[:, 3], 16) == [(4, 3), (3, 4)] and not found[0, :3, 64:].any()


def test_preprocessors_are_copied_and_pickled_with_a_model():
    for model in (detection(), MODELS.build(dict(type='mmvitscale.SegPaddingPreprocessor', size=(64, 64), **NORMALISED))):
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert type(other) is type(model) and torch.equal(other.mean, model.mean)
    data = batch((64, 40), (33, 64))
    expected = detection()(copy.deepcopy(data), True)['inputs']
    assert torch.equal(pickle.loads(pickle.dumps(detection()))(data, True)['inputs'], expected)
