"""Pure geometry of (shifted) windows, exact for every map size.

Along an axis of n tokens with window w, n <= w gives one window of n tokens; otherwise windows of w tokens stand side by
side, the last one shorter where w does not divide n, and in every second block the first one has w // 2 tokens (the
cyclic shift of Swin Transformer, section 3.2, with its mask). A token attends to exactly the tokens of its own window.

Nothing is padded, rolled or masked: the map is cut into its real rectangles, and those of one shape go together.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from mmvitscale.errors import InputError
from mmvitscale.models.layers.transforms import may_cache, takes_no_functions

Window = tuple[int, int]  # (height, width) in tokens


@dataclass(frozen=True)
class WindowGroup:
    """``count`` windows of one shape (h, w), in tokens."""

    window: Window
    count: int

    @property
    def slots(self) -> int:
        """Tokens of one window."""
        return self.window[0] * self.window[1]

    @property
    def tokens(self) -> int:
        """Tokens of all windows together."""
        return self.count * self.slots


@dataclass(frozen=True)
class WindowGeometry:
    """Where every token of a (B, H, W) map goes when the map is cut into windows, and back.

    groups: the windows by shape; all B * H * W tokens are in the order of the windows, group after group, window after window
    and row by row. gather_index: (B * H * W,), for each of them its token in the map; scatter_index: the inverse. Both are None
    where the map is one window, whose tokens are in order already.
    """

    groups: tuple[WindowGroup, ...]
    gather_index: Tensor | None
    scatter_index: Tensor | None


def to_window(window: int | tuple[int, int]) -> Window:
    """An int or a (height, width) pair, in tokens -> (height, width). Raises InputError below 1."""
    sides = tuple(window) if isinstance(window, (list, tuple)) else (window, window)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise InputError(
            f'window {window!r} found, but a window is an int >= 1 or a (height, width) pair of them, '
            'in tokens; correct window_size or pretrained_window_sizes'
        )
    return sides


def window_starts(length: int, window: int, shifted: bool) -> dict[int, list[int]]:
    """Lengths of the windows along an axis -> where those of each length start."""
    cuts = [0] if length <= window else [*range(window // 2 if shifted else 0, length, window)]
    cuts = [*([0] if cuts[0] else []), *cuts, length]
    starts: dict[int, list[int]] = {}
    for start, stop in zip(cuts, cuts[1:]):
        starts.setdefault(stop - start, []).append(start)
    return starts


def window_geometry(batch: int, size: tuple[int, int], window: Window, shifted: bool, device: torch.device) -> WindowGeometry:
    """Geometry of a (batch, H, W) map cut into windows of at most (h, w) tokens, shifted or not.

    Depends on sizes only; the 64 most recently used are cached. A compiled model has it in its graph instead.
    """
    make = _cached_geometry if may_cache() else _cut_map
    return make(batch, size, window, shifted, device)


@lru_cache(maxsize=64)
def _cached_geometry(*arguments: Any) -> WindowGeometry:
    with torch.inference_mode(False):  # a tensor made under inference mode could not serve a later training step
        return _cut_map(*arguments)


def _cut_map(batch: int, size: tuple[int, int], window: Window, shifted: bool, device: torch.device) -> WindowGeometry:
    rows, columns = (window_starts(n, w, shifted) for n, w in zip(size, window))
    if size[0] in rows and size[1] in columns:
        return WindowGeometry((WindowGroup(size, batch),), None, None)
    groups, order = [], []
    images = torch.arange(batch, device=device).view(-1, 1, 1, 1, 1) * (size[0] * size[1])
    for height, tops in rows.items():
        for width, lefts in columns.items():
            y = torch.tensor(tops, device=device).view(-1, 1, 1, 1) + torch.arange(height, device=device).view(-1, 1)
            x = torch.tensor(lefts, device=device).view(-1, 1, 1) + torch.arange(width, device=device)
            groups.append(WindowGroup((height, width), batch * len(tops) * len(lefts)))
            order.append((images + y * size[1] + x).flatten())  # (B, tops, lefts, height, width)
    order = torch.cat(order)
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=device)
    return WindowGeometry(tuple(groups), order, places)


class _Permute(Function):
    """Rows in another order; the backward of a permutation is its inverse, another gather."""

    @staticmethod
    def forward(ctx: Any, rows: Any, order: Any, inverse: Any) -> Any:
        ctx.save_for_backward(order, inverse)
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        order, inverse = ctx.saved_tensors
        return _Permute.apply(grad, inverse, order), None, None


def _permute(rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    return rows.index_select(0, order) if takes_no_functions() else _Permute.apply(rows, order, inverse)


def window_partition(x: Tensor, geometry: WindowGeometry) -> Tensor:
    """(B, H, W, C) -> (B * H * W, C), the tokens in the order of the windows."""
    tokens = x.reshape(-1, x.shape[-1])
    return tokens if geometry.gather_index is None else _permute(tokens, geometry.gather_index, geometry.scatter_index)


def window_reverse(tokens: Tensor, geometry: WindowGeometry, size: tuple[int, int]) -> Tensor:
    """(B * H * W, C) in the order of the windows, and (H, W) -> (B, H, W, C)."""
    if geometry.gather_index is not None:
        tokens = _permute(tokens, geometry.scatter_index, geometry.gather_index)
    return tokens.view(-1, *size, tokens.shape[-1])
