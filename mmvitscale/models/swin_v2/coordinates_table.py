"""What libraries save of the windows, ``relative_coords_table`` and ``relative_position_index``, and what follows from it."""

import torch
from torch import Tensor

from mmvitscale.checkpoints.metadata import Size
from mmvitscale.errors import InputError
from mmvitscale.models.swin_v2.position_bias import log_coordinates, relative_offsets


def coordinates_table(window: Size, pretrained_window: Size) -> Tensor:
    """(1, 2 h - 1, 2 w - 1, 2) float32 log-coordinates of all offsets, as the official code saves them."""
    axes = [log_coordinates(relative_offsets(n), p).float() for n, p in zip(window, pretrained_window)]
    return torch.stack(torch.meshgrid(*axes, indexing='ij'), dim=-1)[None]


def position_index(window: Size) -> Tensor:
    """(N, N) int64: the place of each pair's offset, query minus key, among all of them row by row."""
    height, width = window
    sides = (torch.arange(side, device='cpu') for side in window)
    y, x = (part.flatten() for part in torch.meshgrid(*sides, indexing='ij'))
    return (y[:, None] - y + height - 1) * (2 * width - 1) + x[:, None] - x + width - 1


def windows_of_coordinates(table: Tensor) -> tuple[Size, Size]:
    """(1, 2 h - 1, 2 w - 1, 2) log-coordinates as the official code saves them -> (window, pretrained window).

    An axis of W tokens has 2 W - 1 offsets; its largest coordinate t = log2(1 + 8 (W - 1) / (P - 1)) / 3 gives
    P = 1 + 8 (W - 1) / (2^(3 t) - 1). An axis of one token says nothing, and counts as trained with one. Tables that
    went through half precision are recognised by all their offsets together. Raises InputError for what is no such table.
    """
    if table.ndim != 4 or table.shape[0] != 1 or table.shape[3] != 2 or not table.shape[1] % 2 or not table.shape[2] % 2:
        raise InputError(
            f'a relative_coords_table has the shape {tuple(table.shape)}, but it is (1, 2 h - 1, 2 w - 1, 2); '
            'take the file as it was saved'
        )
    if not table.is_floating_point():
        raise InputError(
            f'a relative_coords_table has the type {table.dtype}, but coordinates are floating-point numbers; '
            'take the file as it was saved'
        )
    axes = [coordinates.detach().cpu() for coordinates in (table[0, :, 0, 0], table[0, 0, :, 1])]
    height, width = ((len(coordinates) + 1) // 2 for coordinates in axes)
    pretrained = [_pretrained_window_of(own, side) if side > 1 else 1 for own, side in zip(axes, (height, width))]
    return (height, width), (pretrained[0], pretrained[1])


def _pretrained_window_of(coordinates: Tensor, side: int) -> int:
    """(2 W - 1,) log-coordinates of an axis -> P. Raises InputError where no P gives them."""
    largest = coordinates.double().max().item()
    exact = 1 + 8 * (side - 1) / (2 ** (3 * largest) - 1) if largest > 0 else float('nan')
    nearest = round(exact) if 1 < exact < 10000 else 0
    for dtype in (coordinates.dtype, torch.float16, torch.bfloat16):  # of the table, and of what it may have been before
        errors = {}
        for candidate in range(max(nearest - 3, 2), nearest + 4):
            expected = log_coordinates(relative_offsets(side), candidate).to(dtype).double()
            errors[candidate] = (coordinates.double() - expected).abs().max().item()
        best = min(errors, key=errors.__getitem__, default=None)
        if best is not None and errors[best] <= 2 * torch.finfo(dtype).eps:
            return best
    raise InputError(
        f'a relative_coords_table of window {side} reaches {largest:.4f}, which no pretrained window gives (the '
        f'nearest is {exact:.2f}); it is no log-spaced table of SwinV2'
    )
