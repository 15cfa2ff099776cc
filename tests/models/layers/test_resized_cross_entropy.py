"""The cross-entropy of resized logits against PyTorch's, of logits that were resized."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmvitscale.models.layers import resized_cross_entropy as module
from mmvitscale.models.layers.resized_cross_entropy import cross_entropy_of_resized

pytestmark = pytest.mark.unit
IGNORED = 255
SIZES = dict(
    larger=((8, 8), (32, 32)), odd=((7, 9), (31, 34)), same=((9, 9), (9, 9)), smaller=((20, 30), (11, 13)),
    point=((1, 1), (5, 6)), wide=((3, 70), (6, 300)), one_row=((4, 4), (1, 16)),
)  # fmt: skip


@pytest.fixture(autouse=True)
def several_pieces(monkeypatch):
    """Some rows at a time, as with large images."""
    monkeypatch.setattr(module, '_VALUES_OF_A_THREAD', 2**11)


def drawn(sizes, classes=20, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    (small, large) = sizes
    logits = 3 * torch.randn(2, classes, *small, generator=generator, dtype=torch.float64)
    label = torch.randint(0, classes, (2, *large), generator=generator)
    label[torch.rand(label.shape, generator=generator) < 0.2] = IGNORED
    return logits.to(dtype).requires_grad_(), label


def by_definition(logits, label, align_corners=False, weight=None):
    x = F.interpolate(logits, label.shape[1:], mode='bilinear', align_corners=align_corners)
    loss = F.cross_entropy(x, label, weight, reduction='sum', ignore_index=IGNORED)
    return loss, (x.argmax(1) == label)[label != IGNORED].sum()


@pytest.mark.parametrize('classes', [2, 16, 40])
@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('sizes', SIZES.values(), ids=SIZES)
def test_loss_gradient_and_correct_pixels_equal_those_of_resized_logits(sizes, weighted, align_corners, classes):
    logits, label = drawn(sizes, classes)
    weight = torch.rand(classes, dtype=torch.float64) if weighted else None
    expected, correct = by_definition(logits, label, align_corners, weight)
    found = cross_entropy_of_resized(logits, label, align_corners, IGNORED, weight)
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-12) and found.correct == correct
    grads = [torch.autograd.grad(0.3 * loss, logits)[0] for loss in (expected, found.loss)]
    assert torch.allclose(*grads, rtol=0, atol=1e-12 * grads[0].abs().max().item())


class Largest(TorchDispatchMode):
    """Notes how many values the largest tensor of floating point has that an operation gives."""

    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        floating = [x.numel() for x in tree_leaves(out) if isinstance(x, Tensor) and x.is_floating_point()]
        self.values = max(self.values, *floating, 0)
        return out


def test_no_tensor_is_as_large_as_the_resized_logits():
    logits, label = drawn(((8, 8), (64, 64)))
    with Largest() as largest:
        cross_entropy_of_resized(logits, label, False, IGNORED).loss.backward()
    # One image's logits with all columns and their own rows, and those of the batch at their own resolution.
    assert largest.values == max(20 * 64 * 8, logits.numel(), label.numel()) < 20 * label.numel() / 8


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_is_computed_in_float32(dtype):
    logits, label = drawn(SIZES['larger'], dtype=dtype)
    exact = logits.detach().double().requires_grad_()
    expected, found = by_definition(exact, label)[0], cross_entropy_of_resized(logits, label, False, IGNORED).loss
    assert found.dtype == torch.float32 and found.item() == pytest.approx(expected.item(), rel=1e-6)
    for loss in (expected, found):
        loss.backward()
    assert logits.grad.dtype == dtype
    tolerance = max(torch.finfo(dtype).eps, 1e-6) * exact.grad.abs().max().item()
    assert torch.allclose(logits.grad.double(), exact.grad, rtol=0, atol=tolerance)


def test_autocast_changes_nothing():
    logits, label = drawn(SIZES['odd'], dtype=torch.float32)
    expected = cross_entropy_of_resized(logits, label, False, IGNORED)
    with torch.autocast('cpu', torch.bfloat16):
        found = cross_entropy_of_resized(logits, label, False, IGNORED)
    assert torch.equal(expected.loss, found.loss) and expected.correct == found.correct


def test_logits_far_apart_have_the_loss_of_their_distance():
    logits = torch.zeros(1, 16, 2, 2)
    logits[:, 3] = 1e4
    found = cross_entropy_of_resized(logits.requires_grad_(), torch.zeros(1, 4, 4, dtype=torch.long), False, IGNORED)
    found.loss.backward()
    assert found.loss == 16e4 and found.correct == 0
    assert torch.equal(logits.grad[0, 0], torch.full((2, 2), -4.0)) and torch.equal(logits.grad[0, 3], torch.full((2, 2), 4.0))


def test_nothing_but_ignored_pixels_is_a_loss_of_zero():
    logits, label = drawn(SIZES['odd'])
    with torch.no_grad():
        logits[0, 0, 0, 0] = torch.inf  # whatever is there
    found = cross_entropy_of_resized(logits, torch.full_like(label, IGNORED), False, IGNORED)
    assert found.loss == 0 and found.correct == 0


def test_an_ignored_label_may_be_one_of_the_classes():
    logits, label = drawn(SIZES['odd'])
    label[label == IGNORED] = 0
    x = F.interpolate(logits, label.shape[1:], mode='bilinear')
    expected = F.cross_entropy(x, label, reduction='sum', ignore_index=0)
    assert cross_entropy_of_resized(logits, label, False, 0).loss.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize('label', [20, -1])
def test_a_label_without_logits_is_refused_as_by_pytorch(label):
    logits, labels = drawn(SIZES['odd'])
    labels[1, 2, 3] = label
    for compute in (by_definition, lambda *args: cross_entropy_of_resized(*args, False, IGNORED)):
        with pytest.raises(IndexError, match=f'^Target {label} is out of bounds.'):
            compute(logits, labels)


def test_second_derivatives():
    logits, label = drawn(((2, 2), (3, 4)), 16)
    assert torch.autograd.gradgradcheck(lambda x: cross_entropy_of_resized(x, label, False, IGNORED).loss, logits)


def test_no_images_are_a_loss_of_zero():
    logits, label = drawn(SIZES['odd'])
    assert cross_entropy_of_resized(logits[:0], label[:0], False, IGNORED) == (0, 0)


def test_labels_of_another_type_are_refused_as_by_pytorch():
    logits, label = drawn(SIZES['odd'])
    with pytest.raises(RuntimeError, match='Long'):
        cross_entropy_of_resized(logits, label.int(), False, IGNORED)


def test_without_gradients_the_loss_is_the_same():
    logits, label = drawn(SIZES['odd'])
    with torch.no_grad():
        found = cross_entropy_of_resized(logits, label, False, IGNORED)
    assert not found.loss.requires_grad and torch.equal(
        found.loss, cross_entropy_of_resized(logits, label, False, IGNORED).loss
    )


def test_function_transforms_and_compiled_graphs_take_it():
    logits, label = drawn(SIZES['odd'])

    def loss(x):
        return cross_entropy_of_resized(x, label, False, IGNORED).loss

    (expected,) = torch.autograd.grad(loss(logits), logits)
    assert torch.allclose(torch.func.grad(loss)(logits.detach()), expected)
    (compiled,) = torch.autograd.grad(torch.compile(loss, backend='eager', fullgraph=True)(logits), logits)
    assert torch.allclose(compiled, expected)
