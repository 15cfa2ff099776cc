"""Pure geometry of (shifted) windows, exact for every map size.

Per axis of length n and window w: n <= w gives one window of n tokens, unpadded and unshifted; n > w pads the end of
the axis to a multiple of w and shifts by w // 2 in every second block. A token attends to exactly the real tokens of
its own cell, where the cell of position p is (p + w - shift) // w (Swin Transformer, section 3.2, made exact for
sizes that are no multiple of the window).
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import Optional, Tuple, Union

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from ...errors import InputError

Window = Tuple[int, int]

# Labels of a slot along one axis of a shifted window.
_OWN, _WRAPPED, _PADDING = 0, 1, 2


@dataclass(frozen=True)
class WindowGroup:
    """Windows ``start:stop``, all cut alike by the shift and by the padding.

    mask: (N, N) additive, 0 where a slot may attend and -inf elsewhere, or None where every slot attends to all. No
    row is all -inf: a padding slot attends to the padding slots of its window.
    """

    start: int
    stop: int
    mask: Optional[Tensor]


@dataclass(frozen=True)
class WindowGeometry:
    """Where every token of a (B, H, W) map goes when the map is cut into windows, and back.

    window: (h, w) in tokens, N = h * w slots to a window. tokens_of_slots: (num_windows * N,), the row of the
    (B * H * W, C) tokens that each slot reads; windows of one group and, within it, of all images stand together.
    slots_of_tokens: (B * H * W,), its inverse. padding_slots: (num_windows * N,) bool, the slots that hold no real
    token (they read some token, and nothing reads them), or None where there are none.
    """

    window: Window
    tokens_of_slots: Tensor
    slots_of_tokens: Tensor
    padding_slots: Optional[Tensor]
    groups: Tuple[WindowGroup, ...]


def to_window(window: Union[int, Tuple[int, int]]) -> Window:
    """An int or a (height, width) pair, in tokens -> (height, width). Raises InputError below 1."""
    sides = tuple(window) if isinstance(window, (list, tuple)) else (window, window)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise InputError(f'window {window!r} found, but a window is an int >= 1 or a (height, width) pair of them, '
                         'in tokens; correct window_size or pretrained_window_sizes')
    return sides


def effective_window(size: Tuple[int, int], window: Window) -> Window:
    """(H, W) of the map and the stage's (h, w) -> the window in use: no axis is longer than the map's."""
    return min(size[0], window[0]), min(size[1], window[1])


def _cut_axis(length: int, window: int, shifted: bool) -> Tuple[np.ndarray, np.ndarray]:
    """Positions (clamped into the map) and labels of the slots along one axis, both (num_windows, window)."""
    window = min(length, window)
    padded = ceil(length / window) * window
    shift = window // 2 if shifted and length > window else 0
    rolled = np.arange(padded) + shift
    position = rolled % padded
    label = np.where(rolled >= padded, _WRAPPED, _OWN)
    label[position >= length] = _PADDING
    return position.clip(max=length - 1).reshape(-1, window), label.reshape(-1, window)


def _kinds(labels: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """(num_windows, window) labels -> the distinct rows and, for each window, which of them it is."""
    kinds, kind_of_window = np.unique(labels, axis=0, return_inverse=True)
    return kinds, kind_of_window.reshape(-1)


def _slot_labels(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Labels (h,) and (w,) of the two axes -> (h * w,) labels; slots of equal label attend to each other."""
    padding = (rows == _PADDING)[:, None] | (columns == _PADDING)
    return np.where(padding, -1, 2 * rows[:, None] + columns).reshape(-1)


@lru_cache(maxsize=64)
def window_geometry(batch: int, size: Tuple[int, int], window: Window, shifted: bool,
                    device: torch.device) -> WindowGeometry:
    """Geometry of a (batch, H, W) map cut into windows of at most (h, w) tokens, shifted or not.

    Depends on sizes only; the 64 most recently used are kept.
    """
    rows, row_labels = _cut_axis(size[0], window[0], shifted)
    columns, column_labels = _cut_axis(size[1], window[1], shifted)
    row_kinds, row_kind = _kinds(row_labels)
    column_kinds, column_kind = _kinds(column_labels)

    # (windows, N), windows sorted by kind so that each group is one slice.
    tokens = (rows[:, None, :, None] * size[1] + columns[None, :, None, :]).reshape(len(rows) * len(columns), -1)
    kind = (row_kind[:, None] * len(column_kinds) + column_kind).reshape(-1)
    order = np.argsort(kind, kind='stable')
    tokens, kind = tokens[order], kind[order]

    groups, is_padding = [], np.zeros(tokens.shape, dtype=bool)
    for k in np.unique(kind):
        labels = _slot_labels(row_kinds[k // len(column_kinds)], column_kinds[k % len(column_kinds)])
        start, stop = np.searchsorted(kind, [k, k + 1])
        mask = None
        if np.any(labels != labels[0]):
            allowed = labels[:, None] == labels
            mask = np.where(allowed, np.float32(0), np.float32(-np.inf))
        is_padding[start:stop] = labels < 0
        groups.append((int(start) * batch, int(stop) * batch, mask))

    # (windows, batch, N): the same window of all images side by side.
    tokens = tokens[:, None, :] + np.arange(batch)[None, :, None] * (size[0] * size[1])
    tokens = tokens.reshape(-1)
    is_padding = np.repeat(is_padding[:, None, :], batch, axis=1).reshape(-1)
    slots = np.empty(batch * size[0] * size[1], dtype=np.int64)
    slots[tokens[~is_padding]] = np.flatnonzero(~is_padding)

    # A tensor made under inference mode could not serve a later training step.
    with torch.inference_mode(False):
        return WindowGeometry(
            window=effective_window(size, window),
            tokens_of_slots=torch.from_numpy(tokens).to(device),
            slots_of_tokens=torch.from_numpy(slots).to(device),
            padding_slots=torch.from_numpy(is_padding).to(device) if is_padding.any() else None,
            groups=tuple(
                WindowGroup(start, stop, None if mask is None else torch.from_numpy(mask).to(device))
                for start, stop, mask in groups))


# The gathers below are permutations up to padding, so the backward of each is the other one: no scatter-add.


class _Partition(Function):

    @staticmethod
    def forward(ctx, tokens, geometry):
        ctx.geometry = geometry
        return tokens.index_select(0, geometry.tokens_of_slots)

    @staticmethod
    def backward(ctx, grad):
        # Nothing reads a padding slot, so no gradient arrives there.
        return _Merge.apply(grad, ctx.geometry), None


class _Merge(Function):

    @staticmethod
    def forward(ctx, slots, geometry):
        ctx.geometry = geometry
        return slots.index_select(0, geometry.slots_of_tokens)

    @staticmethod
    def backward(ctx, grad):
        grad = _Partition.apply(grad, ctx.geometry)
        if ctx.geometry.padding_slots is not None:
            grad = grad.masked_fill(ctx.geometry.padding_slots[:, None], 0)
        return grad, None


def window_partition(x: Tensor, geometry: WindowGeometry) -> Tensor:
    """(B, H, W, C) -> (num_windows, N, C): roll, pad and partition in one gather."""
    slots = geometry.window[0] * geometry.window[1]
    return _Partition.apply(x.reshape(-1, x.shape[-1]), geometry).view(-1, slots, x.shape[-1])


def window_merge(windows: Tensor, geometry: WindowGeometry, size: Tuple[int, int]) -> Tensor:
    """(num_windows, N, C) and (H, W) -> (B, H, W, C); padding slots are dropped."""
    channels = windows.shape[-1]
    return _Merge.apply(windows.reshape(-1, channels), geometry).view(-1, *size, channels)
