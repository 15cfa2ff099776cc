"""A 3x3 convolution of maps of several resolutions, computed at the resolution of each.

Decode heads resize maps to the size of the largest, concatenate them and convolve (UPerNet, arXiv 1807.10221; PSPNet, arXiv
1612.01105). Bilinear resizing and the product with one of the nine taps of a kernel act on different axes, so they commute:

    conv(resize(x)) = sum over (dy, dx) of S_dy U_y (W_(dy,dx) x) U_x' S_dx'

with W_(dy,dx) a tap, a matrix of output by input channels, U the matrix of linear interpolation along an axis, and S_d the
shift by d with zeros outside, as padding has them. The nine products are done where the map is small; S_d U are banded
matrices that are known from two lengths.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvitscale.models.layers.interpolation import BAND_ROWS, interpolation_matrix, source_places
from mmvitscale.models.layers.transforms import may_cache


class MultiResolutionConv2d(nn.Conv2d):
    """A list of maps (B, C_i, h_i, w_i), the first of them as large as the output -> (B, out_channels, h_0, w_0): what the
    convolution gives for all of them resized bilinearly to the size of the first and concatenated along the channels.

    The same function as ``nn.Conv2d`` with the same weight and bias up to rounding, and itself one for a single map
    (B, C, H, W).

    Args:
        conv: an ``nn.Conv2d`` whose parameters become those of this layer, the same tensors. What is not a 3x3 convolution of
            stride 1 with zeros around it is computed by resizing first.
        align_corners: of the resizing, see ``torch.nn.functional.interpolate``.
    """

    def __init__(self, conv: nn.Conv2d, align_corners: bool):
        nn.Module.__init__(self)
        self.__dict__.update({name: value for name, value in conv.__dict__.items() if name not in self.__dict__})
        self._parameters, self.training = conv._parameters, conv.training
        self.align_corners = align_corners

    def _conv_forward(self, maps: Any, weight: Tensor, bias: Tensor | None) -> Tensor:
        if isinstance(maps, Tensor):
            return super()._conv_forward(maps, weight, bias)
        if not self._has_taps() or any(isinstance(side, torch.SymInt) for x in maps for side in x.shape[2:]):
            # A graph for every size has no matrix that is known from the size.
            return super()._conv_forward(resized_and_concatenated(maps, self.align_corners), weight, bias)
        return conv_of_resized(maps, weight, bias, self.align_corners)

    def _has_taps(self) -> bool:
        kernel = (self.kernel_size, self.stride, self.padding, self.dilation, self.groups, self.padding_mode)
        return kernel == ((3, 3), (1, 1), (1, 1), (1, 1), 1, 'zeros')


def resized_and_concatenated(maps: Sequence[Tensor], align_corners: bool) -> Tensor:
    """Maps (B, C_i, h_i, w_i) -> (B, sum of C_i, h_0, w_0), resized bilinearly to the size of the first."""
    size = maps[0].shape[2:]
    return torch.cat(
        [
            x if x.shape[2:] == size else F.interpolate(x, tuple(size), mode='bilinear', align_corners=align_corners)
            for x in maps
        ],
        dim=1,
    )


def conv_of_resized(maps: Sequence[Tensor], weight: Tensor, bias: Tensor | None, align_corners: bool) -> Tensor:
    """Maps (B, C_i, h_i, w_i), weight (O, sum of C_i, 3, 3) -> (B, O, h_0, w_0): the 3x3 convolution, with zeros
    around it, of ``resized_and_concatenated``; each map is multiplied at the smaller of its own resolution and the first's."""
    size = maps[0].shape[2:]
    weights = weight.split([x.shape[1] for x in maps], dim=1)
    # Maps for which the other form would not save products: those of the first's size, the first among them.
    whole = [4 * x.shape[2] * x.shape[3] > 3 * size[0] * size[1] for x in maps]
    large = [x for x, is_whole in zip(maps, whole) if is_whole]
    x = large[0] if len(large) == 1 else resized_and_concatenated(large, align_corners)
    kernel = [w for w, is_whole in zip(weights, whole) if is_whole]
    out = F.conv2d(x, kernel[0] if len(kernel) == 1 else torch.cat(kernel, dim=1), bias, padding=1)
    small = [(x, w) for x, w, is_whole in zip(maps, weights, whole) if not is_whole]
    return out + _columns([_rows(x, w, size[1], align_corners) for x, w in small], size[0], align_corners) if small else out


def _rows(x: Tensor, weight: Tensor, width: int, align_corners: bool) -> Tensor:
    """(B, C, h, w), (O, C, 3, 3) -> (B, h, 3, width, O): resized along its rows and summed over the dx of the taps; the
    third axis is their dy."""
    batch, channels, height, before = x.shape
    outputs = weight.shape[0]
    tokens = x.permute(0, 2, 3, 1).reshape(batch * height * before, channels)
    # dx beside the column, dy beside the output channel: so the product below sums over both, columns and dx.
    products = tokens @ weight.permute(1, 3, 2, 0).reshape(channels, 9 * outputs)
    products = products.view(batch * height, 3 * before, 3 * outputs)
    blocks = [
        matrix @ products[:, 3 * first : 3 * last]
        for first, last, matrix in _bands(before, width, align_corners, x.device, products.dtype)
    ]
    rows = blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)
    return rows.view(batch, height, width, 3, outputs).transpose(2, 3)


def _columns(maps: Sequence[Tensor], height: int, align_corners: bool) -> Tensor:
    """Maps (B, h_i, 3, W, O) -> (B, O, height, W): each resized along its columns, and all summed with the dy of the taps."""
    batch, _, _, width, channels = maps[0].shape
    bands = [_bands(x.shape[1], height, align_corners, x.device, x.dtype) for x in maps]
    blocks = []
    for parts in zip(*bands):  # of the same rows of the output
        matrix = torch.cat([matrix for _, _, matrix in parts], dim=1)
        columns = torch.cat([x[:, first:last] for x, (first, last, _) in zip(maps, parts)], dim=1)
        blocks.append(matrix @ columns.reshape(batch, matrix.shape[1], width * channels))
    out = blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)
    return out.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _bands(
    before: int, after: int, align_corners: bool, device: torch.device, dtype: torch.dtype
) -> tuple[tuple[int, int, Tensor], ...]:
    """The banded matrices that resize an axis and shift it, some rows at a time: (first, last, matrix), where the matrix (rows,
    3 (last - first)) has as columns the places first to last of the axis, and for each of them the shifts by -1, 0 and 1."""
    make = _cached_bands if may_cache() else _make_bands
    return make(before, after, align_corners, device, dtype)


@lru_cache(maxsize=64)
def _cached_bands(*arguments: Any) -> tuple[tuple[int, int, Tensor], ...]:
    with torch.inference_mode(False):  # a tensor made under inference mode could not serve a later training step
        return _make_bands(*arguments)


def _make_bands(
    before: int, after: int, align_corners: bool, device: torch.device, dtype: torch.dtype
) -> tuple[tuple[int, int, Tensor], ...]:
    resize = interpolation_matrix(before, after, align_corners, device)
    shifted = torch.stack([F.pad(resize, (0, 0, 1, 1))[d : d + after] for d in range(3)], dim=2)  # (after, before, 3)
    bands = []
    for start in range(0, after, BAND_ROWS):
        stop = min(start + BAND_ROWS, after)
        # Shifts reach one row further on both sides.
        first, last = source_places(max(start - 1, 0), min(stop + 1, after), before, after, align_corners)
        bands.append((first, last, shifted[start:stop, first:last].flatten(1).to(dtype)))
    return tuple(bands)
