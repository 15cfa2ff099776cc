import pytest
import torch
from mmengine.registry import MODELS

from mmvitscale.errors import InputError
from mmvitscale.models.necks import SimplePyramid

pytestmark = pytest.mark.unit


@pytest.mark.parametrize('inputs', [1, 4])
@pytest.mark.parametrize('size', [(8, 8), (5, 7), (1, 1)])
def test_outputs_have_the_pyramid_strides_and_all_parameters_a_gradient(inputs, size):
    neck = MODELS.build(dict(type='mmvitscale.SimplePyramid', in_channels=[16] * inputs, out_channels=6, num_outs=5))
    outs = neck([torch.randn(2, 16, *size, requires_grad=True) for _ in range(inputs)])
    half = [-(-n // 2) for n in size]
    sizes = [[4 * n for n in size], [2 * n for n in size], list(size), half, [-(-n // 2) for n in half]]
    assert [list(out.shape) for out in outs] == [[2, 6, *s] for s in sizes]
    sum(out.square().sum() for out in outs).backward()
    assert all(p.grad is not None for p in neck.parameters())


def test_each_of_four_inputs_makes_its_own_stride():
    neck = SimplePyramid([8] * 4, 4).eval()
    inputs = [torch.randn(1, 8, 6, 6) for _ in range(4)]
    base = neck(inputs)
    for i in range(4):
        changed = neck([x + (j == i) * torch.randn_like(x) for j, x in enumerate(inputs)])
        assert [not torch.equal(a, b) for a, b in zip(base, changed)] == [j == i for j in range(4)]


def test_in_index_picks_inputs():
    neck = SimplePyramid(8, 4, in_index=[2])
    inputs = [torch.randn(1, 8, 4, 4) for _ in range(3)]
    assert torch.equal(neck(inputs)[2], neck([None, None, inputs[2]])[2])


def test_invalid_numbers_of_inputs_and_outputs_are_refused():
    with pytest.raises(InputError, match='takes 1 or 4 maps'):
        SimplePyramid([8, 8])
    with pytest.raises(InputError, match='num_outs 3'):
        SimplePyramid(8, num_outs=3)
    with pytest.raises(InputError, match='got 2 maps, but in_channels promises 1'):
        SimplePyramid(8)([torch.randn(1, 8, 4, 4)] * 2)
