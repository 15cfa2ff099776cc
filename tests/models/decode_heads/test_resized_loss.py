"""Losses and accuracy of our decode heads beside those of mmsegmentation's."""

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mmvitscale.models.decode_heads import resized_loss
from mmvitscale.registry import MODELS
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.integration
CLASSES = 18
HEADS = dict(
    UPerHead=dict(in_channels=[4, 6], in_index=[0, 1], pool_scales=(1, 2)),
    FCNHead=dict(in_channels=6, in_index=1, num_convs=1),
    FPNHead=dict(in_channels=[4, 6], in_index=[0, 1], feature_strides=[4, 8]),
)


def cross_entropy(**options):
    return dict(type='mmseg.CrossEntropyLoss', **options)


def pair(name, **options):
    """mmsegmentation's head and ours, the same random weights in float64."""
    options = dict(channels=8, num_classes=CLASSES, norm_cfg=dict(type='BN'), dropout_ratio=0, **HEADS[name], **options)
    theirs = randomise(MODELS.build(dict(type=f'mmseg.{name}', **options))).double()
    ours = MODELS.build(dict(type=f'mmvitscale.{name}', **options)).double()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def samples(size=(37, 50), ignored=0.2):
    generator = torch.Generator().manual_seed(3)
    found = []
    for _ in range(2):
        label = torch.randint(0, CLASSES, (1, *size), generator=generator)
        label[torch.rand(label.shape, generator=generator) < ignored] = 255
        found.append(SegDataSample(gt_sem_seg=PixelData(data=label), metainfo=dict(img_shape=size)))
    return found


def losses_and_gradients(head, data):
    generator = torch.Generator().manual_seed(4)
    inputs = [torch.randn(2, c, *size, generator=generator, dtype=torch.float64) for c, size in ((4, (9, 13)), (6, (5, 7)))]
    losses = head.loss(inputs, data, {})
    sum(value for name, value in losses.items() if 'loss' in name).sum().backward()
    return losses, [parameter.grad for parameter in head.parameters()]


WEIGHTS = [0.5 + 0.1 * i for i in range(CLASSES)]
LOSSES = dict(
    plain=cross_entropy(),
    pixels_that_count=cross_entropy(avg_non_ignore=True, loss_weight=0.4),
    classes_weighted=cross_entropy(class_weight=WEIGHTS),
    summed=cross_entropy(reduction='sum', class_weight=WEIGHTS),
    two_of_one_name=[cross_entropy(), cross_entropy(class_weight=WEIGHTS, loss_weight=2.0)],
    two_names=[cross_entropy(), cross_entropy(loss_name='loss_second', avg_non_ignore=True)],
)
OWN_LOSSES = dict(
    dice=[cross_entropy(loss_weight=1.0), dict(type='mmseg.DiceLoss', loss_name='loss_dice', ignore_index=255)],
    sigmoid=cross_entropy(use_sigmoid=True),
    by_pixel=cross_entropy(reduction='none'),
)


def check_equal(theirs, ours, data):
    (expected, expected_grads), (found, grads) = losses_and_gradients(theirs, data), losses_and_gradients(ours, data)
    assert list(found) == list(expected) and 'acc_seg' in found
    for name in expected:
        assert torch.allclose(found[name].double(), expected[name].double(), rtol=1e-6 if name == 'acc_seg' else 1e-10)
        assert found[name].shape == expected[name].shape
    for one, other in zip(grads, expected_grads):
        assert torch.allclose(one, other, rtol=0, atol=1e-10 * max(other.abs().max().item(), 1))


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('loss', LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize('name', HEADS)
def test_losses_are_those_of_mmsegmentation_without_resized_logits(monkeypatch, name, loss, align_corners):
    theirs, ours = pair(name, loss_decode=loss, align_corners=align_corners)
    calls = []
    compute = resized_loss.cross_entropy_of_resized
    monkeypatch.setattr(resized_loss, 'cross_entropy_of_resized', lambda *args: calls.append(1) or compute(*args))
    check_equal(theirs, ours, samples())
    assert len(calls) == (len(loss) if isinstance(loss, list) else 1)


@pytest.mark.parametrize('ignored', [0.0, 1.0])
def test_images_without_and_with_nothing_but_ignored_pixels(ignored):
    for loss in (LOSSES['plain'], LOSSES['pixels_that_count']):
        check_equal(*pair('FCNHead', loss_decode=loss), samples(ignored=ignored))


SAMPLED = dict(loss_decode=cross_entropy(), sampler=dict(type='mmseg.OHEMPixelSampler', thresh=0.7, min_kept=50))


@pytest.mark.parametrize('options', [*(dict(loss_decode=loss) for loss in OWN_LOSSES.values()), SAMPLED], ids=str)
def test_other_losses_are_the_heads_own(monkeypatch, options):
    monkeypatch.setattr(resized_loss, 'cross_entropy_of_resized', None)
    check_equal(*pair('FCNHead', **options), samples())


def test_class_weights_average_over_pixels_that_count():
    """mmsegmentation's combination of both ends in an error."""
    _, ours = pair('FCNHead', loss_decode=cross_entropy(class_weight=WEIGHTS, avg_non_ignore=True))
    data = samples()
    label = torch.cat([sample.gt_sem_seg.data for sample in data])
    logits = torch.randn(2, CLASSES, 5, 7, dtype=torch.float64)
    found = ours.loss_by_feat(logits, data)['loss_ce']
    resized = nn.functional.interpolate(logits, label.shape[1:], mode='bilinear')
    expected = nn.functional.cross_entropy(resized, label, torch.tensor(WEIGHTS).double(), ignore_index=255)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
