"""A 3x3 convolution of resized maps, each at its own resolution: equal to resizing, concatenating and convolving."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmvitscale.models.layers import multi_resolution_conv
from mmvitscale.models.layers.multi_resolution_conv import (
    MultiResolutionConv2d,
    conv_of_resized,
    interpolation_matrix,
    resized_and_concatenated,
)

pytestmark = pytest.mark.unit

# Sizes of the maps, the first one that of the output: halves, odd ones, cells of a pooling pyramid, one row, one column, one
# place, equal ones, larger ones, and more rows than a banded matrix has.
SIZES = [
    [(16, 16), (8, 8), (4, 4), (2, 2)],
    [(13, 21), (7, 11), (4, 6), (2, 3)],
    [(9, 7), (1, 1), (2, 2), (3, 3), (6, 6)],
    [(1, 12), (1, 6), (1, 3)],
    [(12, 1), (5, 1)],
    [(1, 1), (1, 1)],
    [(6, 5), (6, 5), (3, 5), (6, 2)],
    [(5, 6), (9, 11), (5, 7), (2, 3)],
    [(3, 300), (2, 150), (1, 77), (3, 299)],
    [(261, 4), (131, 2), (5, 2), (1, 1)],
]
ALIGN = pytest.mark.parametrize('align_corners', [False, True])


def case(sizes, batch=2, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    channels = [3 + i for i in range(len(sizes))]
    maps = [torch.randn(batch, c, *size, generator=generator, dtype=torch.float64) for c, size in zip(channels, sizes)]
    weight = torch.randn(4, sum(channels), 3, 3, generator=generator, dtype=torch.float64)
    bias = torch.randn(4, generator=generator, dtype=torch.float64)
    return [x.to(dtype).requires_grad_() for x in maps], weight.to(dtype).requires_grad_(), bias.to(dtype).requires_grad_()


def plain(maps, weight, bias, align_corners):
    resized = [F.interpolate(x, maps[0].shape[2:], mode='bilinear', align_corners=align_corners) for x in maps]
    return F.conv2d(torch.cat(resized, 1), weight, bias, padding=1)


@ALIGN
@pytest.mark.parametrize('sizes', SIZES, ids=str)
def test_values_and_gradients_equal_those_of_resizing_first(sizes, align_corners):
    maps, weight, bias = case(sizes)
    expected, found = plain(maps, weight, bias, align_corners), conv_of_resized(maps, weight, bias, align_corners)
    assert found.shape == expected.shape and torch.allclose(found, expected, rtol=0, atol=1e-11)
    grad = torch.randn_like(expected)
    inputs = [*maps, weight, bias]
    for mine, theirs in zip(torch.autograd.grad(found, inputs, grad), torch.autograd.grad(expected, inputs, grad)):
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-10 * max(theirs.abs().max().item(), 1))


@ALIGN
@pytest.mark.parametrize('before, after', [(1, 1), (1, 5), (5, 1), (2, 3), (7, 13), (13, 7), (16, 128), (77, 300)])
def test_the_interpolation_matrix_is_that_of_pytorch(before, after, align_corners):
    expected = F.interpolate(torch.eye(before, dtype=torch.float64)[None], after, mode='linear', align_corners=align_corners)[
        0
    ].T
    found = interpolation_matrix(before, after, align_corners, torch.device('cpu'))
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


@ALIGN
@pytest.mark.parametrize('rows', [1, 2, 5])
def test_any_number_of_rows_at_a_time_gives_the_same(rows, align_corners, monkeypatch):
    monkeypatch.setattr(multi_resolution_conv, 'BAND_ROWS', rows)
    multi_resolution_conv._cached_bands.cache_clear()
    try:
        maps, weight, bias = case(SIZES[1])
        found = conv_of_resized(maps, weight, bias, align_corners)
    finally:
        multi_resolution_conv._cached_bands.cache_clear()
    assert torch.allclose(found, plain(maps, weight, bias, align_corners), rtol=0, atol=1e-11)


def test_bands_leave_out_what_is_zero():
    """So that the work grows with the map's side, not with its square."""
    for first, last, matrix in multi_resolution_conv._make_bands(512, 1024, False, torch.device('cpu'), torch.float32):
        assert last - first <= 67 and matrix.shape[1] == 3 * (last - first)


@pytest.mark.parametrize('batch', [0, 1, 3])
def test_any_batch(batch):
    maps, weight, bias = case(SIZES[0], batch)
    assert conv_of_resized(maps, weight, bias, False).shape == (batch, 4, 16, 16)


def test_second_derivatives_and_functional_transforms():
    maps, weight, bias = case([(4, 4), (2, 2)], 1)
    assert torch.autograd.gradgradcheck(lambda x, w: conv_of_resized([maps[0], x], w, bias, False), (maps[1], weight))
    per_sample = torch.func.vmap(torch.func.grad(lambda x: conv_of_resized([x[None], maps[1]], weight, bias, False).sum()))
    assert per_sample(torch.randn(3, 3, 4, 4, dtype=torch.float64)).shape == (3, 3, 4, 4)


@pytest.mark.parametrize('align_corners', [False, True])
def test_in_bfloat16_it_is_as_close_as_resizing_first(align_corners):
    """Of autocast: errors against float64, in the root mean square."""
    sizes = [(24, 24), (12, 12), (6, 6), (3, 3)]
    maps = [torch.randn(2, 64, *size) for size in sizes]
    weight, bias = torch.randn(32, 256, 3, 3) / 48, torch.zeros(32)
    exact = plain([x.double() for x in maps], weight.double(), bias.double(), align_corners)
    with torch.autocast('cpu', torch.bfloat16):
        errors = [
            (function(maps, weight, bias, align_corners).double() - exact).square().mean().sqrt().item()
            for function in (conv_of_resized, plain)
        ]
    assert errors[0] < 1.5 * errors[1] and errors[0] < 0.005 * exact.square().mean().sqrt()


def test_it_saves_most_products():
    """Of four maps of 512 channels, each half as large as the one before: 155 G multiply-adds become 64 G."""
    counts = []
    with torch.device('meta'):
        maps, weight = [torch.empty(1, 512, side, side) for side in (128, 64, 32, 16)], torch.empty(512, 2048, 3, 3)
    for function in (conv_of_resized, plain):
        with FlopCounterMode(display=False) as counter:
            function(maps, weight, None, False)
        counts.append(counter.get_total_flops() / 2e9)
    assert counts[1] == pytest.approx(154.6, abs=0.1) and counts[0] < 65


class TestLayer:
    def test_it_has_the_parameters_of_the_convolution(self):
        conv = nn.Conv2d(7, 4, 3, padding=1)
        layer = MultiResolutionConv2d(conv, False)
        assert layer.weight is conv.weight and layer.bias is conv.bias and list(layer.state_dict()) == ['weight', 'bias']
        image = torch.randn(2, 7, 5, 5)
        assert torch.equal(layer(image), conv(image))

    @pytest.mark.parametrize(
        'options',
        [
            dict(kernel_size=1),
            dict(kernel_size=3),
            dict(kernel_size=5, padding=2),
            dict(kernel_size=3, padding=1, padding_mode='circular'),
            dict(kernel_size=3, padding=2, dilation=2),
            dict(kernel_size=3, padding=1, stride=2),
        ],
        ids=str,
    )
    def test_other_convolutions_are_computed_by_resizing_first(self, options):
        conv = nn.Conv2d(7, 4, **options).double()
        maps = [torch.randn(2, 3, 8, 6).double(), torch.randn(2, 4, 4, 3).double()]
        expected = conv(resized_and_concatenated(maps, True))
        assert torch.allclose(MultiResolutionConv2d(conv, True)(maps), expected, rtol=0, atol=1e-12)

    def test_what_is_attached_to_the_convolution_acts(self):
        conv = nn.Conv2d(7, 4, 3, padding=1)
        layer = MultiResolutionConv2d(conv, False)
        nn.utils.parametrizations.weight_norm(layer)
        layer.parametrizations.weight.original0.data.mul_(2)
        maps = [torch.randn(2, 3, 8, 6), torch.randn(2, 4, 4, 3)]
        expected = plain(maps, layer.weight, layer.bias, False)
        assert torch.allclose(layer(maps), expected, atol=1e-5)
        seen = []
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
        layer(maps)
        assert seen == [(2, 4, 8, 6)]

    def test_compiled_and_exported_it_gives_the_same(self):
        layer = MultiResolutionConv2d(nn.Conv2d(7, 4, 3, padding=1), False).eval()
        maps = [torch.randn(1, 3, 8, 6), torch.randn(1, 4, 4, 3)]
        program = torch.export.export(_OfTwo(layer), tuple(maps))
        assert torch.allclose(program.module()(*maps), layer(maps), atol=1e-5)
        half, other = torch.export.Dim('half', min=2, max=64), torch.export.Dim('other', min=2, max=64)
        shapes = ({2: 2 * half, 3: 2 * other}, {2: half, 3: other})
        program = torch.export.export(_OfTwo(layer), tuple(maps), dynamic_shapes=shapes)
        for size in [(4, 3), (7, 5), (9, 20)]:
            maps = [torch.randn(1, 3, 2 * size[0], 2 * size[1]), torch.randn(1, 4, *size)]
            assert torch.allclose(program.module()(*maps), layer(maps), atol=1e-5)


class _OfTwo(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, first, second):
        return self.layer([first, second])
