"""Linear interpolation along an axis as a matrix: what ``torch.nn.functional.interpolate`` does bilinearly to a map is one such
product along each of its axes."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Rows of a banded matrix that are multiplied at a time: more are mostly zeros, fewer are slow products.
BAND_ROWS = 128


class Band(NamedTuple):
    """Places start to stop of the result, which are interpolated from first to last; matrix: (stop - start, last - first)."""

    start: int
    stop: int
    first: int
    last: int
    matrix: Tensor


def interpolation_bands(matrix: Tensor, align_corners: bool, rows: int) -> Iterator[Band]:
    """A matrix (after, before) of ``interpolation_matrix``, some rows at a time, without the columns of zeros beside them."""
    after, before = matrix.shape
    for start in range(0, after, rows):
        stop = min(start + rows, after)
        first, last = source_places(start, stop, before, after, align_corners)
        yield Band(start, stop, first, last, matrix[start:stop, first:last])


def source_places(start: int, stop: int, before: int, after: int, align_corners: bool) -> tuple[int, int]:
    """The first place and the one behind the last that places start to stop of ``after`` are interpolated from."""
    last = int(source_position(stop - 1, before, after, align_corners))
    return int(source_position(start, before, after, align_corners)), min(last + 2, before)


def resize_columns(x: Tensor, matrix: Tensor, align_corners: bool) -> Tensor:
    """(h, w, C), matrix (W, w) -> (h, W, C)."""
    out = x.new_empty(x.shape[0], matrix.shape[0], x.shape[2])
    for band in interpolation_bands(matrix, align_corners, BAND_ROWS):
        torch.matmul(band.matrix, x[:, band.first : band.last], out=out[:, band.start : band.stop])
    return out


def resize_columns_adjoint(x: Tensor, matrix: Tensor, align_corners: bool) -> Tensor:
    """(h, W, C), matrix (W, w) -> (h, w, C): the gradient of what ``resize_columns`` was given, from that of its result."""
    out = x.new_zeros(x.shape[0], matrix.shape[1], x.shape[2])
    for band in interpolation_bands(matrix, align_corners, BAND_ROWS):
        transposed = band.matrix.t().expand(x.shape[0], -1, -1)
        out[:, band.first : band.last].baddbmm_(transposed, x[:, band.start : band.stop])
    return out


def source_position(place: Any, before: int, after: int, align_corners: bool) -> Any:
    """Where on an axis of ``before`` places one of ``after`` is interpolated from, beginning at 0, as
    ``torch.nn.functional.interpolate`` has it; a number, or a tensor of them."""
    position = place * ((before - 1) / max(after - 1, 1)) if align_corners else (place + 0.5) * (before / after) - 0.5
    return position.clamp(0, before - 1) if isinstance(position, Tensor) else min(max(position, 0), before - 1)


def interpolation_matrix(before: int, after: int, align_corners: bool, device: torch.device) -> Tensor:
    """(after, before) float64: linear interpolation of an axis of ``before`` places to ``after``."""
    places = torch.arange(after, dtype=torch.float64, device=device)
    positions = source_position(places, before, after, align_corners)
    return (1 - (positions[:, None] - torch.arange(before, dtype=torch.float64, device=device)).abs()).clamp_min(0)
