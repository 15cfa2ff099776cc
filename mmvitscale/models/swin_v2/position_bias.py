"""Relative position biases of window attention: LogCPB, LinearCPB and BiasTable behind one interface.

Each is a module ``bias(window, pretrained_window) -> (heads, 2 h - 1, 2 w - 1)``: one number per head and per offset
(query minus key, in tokens) that occurs in a window of (h, w) tokens, offset (0, 0) in the middle. ``expand`` lays
them out over the pairs of tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from mmvitscale.errors import InputError
from mmvitscale.models.layers.attachments import is_plain, weight_in
from mmvitscale.models.layers.transforms import may_cache, takes_no_functions
from mmvitscale.models.swin_v2.windows import Window

# Numbers of expanded biases that are summed at a time.
_EXPANDED = 2**24


def linear_coordinates(offset: Tensor, pretrained_window: int) -> Tensor:
    """Offsets in tokens -> 8 d / (P - 1): the pretrained window P spans [-8, 8]."""
    return offset * (8.0 / max(pretrained_window - 1, 1))


def log_coordinates(offset: Tensor, pretrained_window: int) -> Tensor:
    """Offsets in tokens -> sign(u) log2(1 + |u|) / log2(8) with u = 8 d / (P - 1) (SwinV2, section 3.3, eq. 4)."""
    u = linear_coordinates(offset, pretrained_window)
    return u.sign() * torch.log2(1 + u.abs()) / 3.0


def relative_offsets(length: int) -> Tensor:
    """(2 n - 1,) float64 offsets -(n - 1) .. n - 1 that occur along an axis of n tokens."""
    return torch.arange(1 - length, length, dtype=torch.float64, device='cpu')


def coordinate_grid(
    coordinates: Callable[..., Any], window: Window, pretrained_window: Window, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """(2 h - 1, 2 w - 1, 2) coordinates (vertical, horizontal) of the offsets in a window.

    The 64 most recently used are cached. A compiled model has them in its graph instead.
    """
    make = _cached_grid if may_cache() else _make_grid
    return make(coordinates, window, pretrained_window, device, dtype)


@lru_cache(maxsize=64)
def _cached_grid(*arguments: Any) -> Tensor:
    with torch.inference_mode(False):  # a tensor made under inference mode could not serve a later training step
        return _make_grid(*arguments)


def _make_grid(coordinates: Any, window: Any, pretrained_window: Any, device: Any, dtype: Any) -> Any:
    axes = [coordinates(relative_offsets(n), p) for n, p in zip(window, pretrained_window)]
    return torch.stack(torch.meshgrid(*axes, indexing='ij'), dim=-1).to(device, dtype)


class ContinuousPositionBias(nn.Module):
    """(window, pretrained_window) -> (heads, 2 h - 1, 2 w - 1): 16 sigmoid(MLP(coordinates)), in (0, 16).

    The MLP is 2 -> 512 -> heads with a ReLU and no output bias. Any window may be asked for; ``pretrained_window`` is the
    window the MLP was trained with and must not change with it (SwinV2, section 3.3).
    """

    coordinates: Callable[..., Any]  # (offsets in tokens, pretrained_window) -> coordinates, given by the subclass

    def __init__(self, num_heads: int, window: Window):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, num_heads, bias=False))

    def forward(self, window: Window, pretrained_window: Window) -> Tensor:
        weight = weight_in(self.mlp)  # of whatever stands there, an adapter too
        grid = coordinate_grid(type(self).coordinates, window, pretrained_window, weight.device, weight.dtype)
        # Biases reach 16, where bfloat16 resolves 0.06: too coarse, and the table is small. Meta tensors, with which work is
        # counted, have no autocast of their own.
        with torch.autocast('cpu' if grid.is_meta else grid.device.type, enabled=False):
            return 16 * torch.sigmoid(self.mlp(grid)).permute(2, 0, 1)

    def set_window(self, window: Window) -> None:
        """Nothing to do: the MLP is a function of the offset, whatever the window."""


class LogCPB(ContinuousPositionBias):
    """Log-spaced continuous position bias (SwinV2, section 3.3)."""

    coordinates = staticmethod(log_coordinates)


class LinearCPB(ContinuousPositionBias):
    """Linear-spaced continuous position bias: the paper's comparison (SwinV2, Table 1)."""

    coordinates = staticmethod(linear_coordinates)


class BiasTable(nn.Module):
    """(window, pretrained_window) -> (heads, 2 h - 1, 2 w - 1): one learned number per offset, as in SwinV1.

    For another window than the trained one the table is resized bicubically (the practice of SwinV1); a map smaller than the
    window takes the offsets that occur. ``pretrained_window`` is not used.
    """

    def __init__(self, num_heads: int, window: Window):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(num_heads, 2 * window[0] - 1, 2 * window[1] - 1))
        self.window = window

    def forward(self, window: Window, pretrained_window: Window) -> Tensor:
        if any(own < asked for own, asked in zip(self.window, window)):
            raise InputError(
                f'a bias table set to windows of {self.window} was asked for the offsets of {window}; call '
                'set_window_size on the backbone first'
            )
        return sub_table(resize_table(self.table, self.window), window)

    def set_window(self, window: Window) -> None:
        """Resize the table to another window from now on when it is read. It keeps its own shape, so that an optimizer and an
        average of weights made before go on with it."""
        self.window = window

    def _load_from_state_dict(self, state_dict: Any, prefix: Any, *args: Any, **kwargs: Any) -> Any:
        """A table takes the shape in which it comes."""
        table = state_dict.get(prefix + 'table')
        if table is not None and self.fits(table) and table.shape != self.table.shape:
            self.table.data, self.table.grad = self.table.new_empty(table.shape), None
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def fits(self, table: Tensor) -> bool:
        """Whether this is a table of as many heads, trained with any window."""
        return table.ndim == 3 and len(table) == len(self.table) and table.shape[1] % 2 == table.shape[2] % 2 == 1


def resize_table(table: Tensor, window: Window) -> Tensor:
    """(heads, 2 h - 1, 2 w - 1) -> the same for another window, bicubically."""
    size: tuple[int, int] = (2 * window[0] - 1, 2 * window[1] - 1)
    if table.shape[1:] == size:
        return table
    return F.interpolate(table[None], size=size, mode='bicubic', align_corners=False)[0]


POSITION_BIASES = {'log_cpb': LogCPB, 'linear_cpb': LinearCPB, 'table': BiasTable}
_PARTS: tuple[type[nn.Module], ...] = (*POSITION_BIASES.values(), nn.Sequential, nn.Linear, nn.ReLU)


# Laid out over the pairs of tokens.


class _Expand(Function):
    """The block Toeplitz matrix of a table: overlapping views give it without an index per pair, and its gradient sums
    the diagonals without a scatter.

    A window of 2 x 2 tokens, a = (0, 0), b = (0, 1), c = (1, 0), d = (1, 1), has a table of 3 x 3 offsets, query minus
    key; rows are queries, columns keys::

                  -1  0  1             a  b  c  d
             -1 [  p  q  r ]       a [ t  s  q  p ]
        t =   0 [  s  t  u ]  ->   b [ u  t  r  q ]
              1 [  v  w  x ]       c [ w  v  t  s ]
                                   d [ x  w  u  t ]

    Row (i, j) read as 2 x 2 is the part of the table that starts at (i, j), turned by 180 degrees: for a it is
    [[p, q], [s, t]] turned, [[t, s], [q, p]]. ``unfold`` gives all those parts as views, ``flip`` turns them. Backward,
    the gradient of t is the sum of the diagonal, of q that of (a, c) and (b, d): every entry is reached from as many
    pairs as have its offset.
    """

    @staticmethod
    def forward(ctx: Any, table: Any, window: Any) -> Any:
        ctx.window = window
        return _lay_out(table, window)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        # Some heads at a time: the copies are twice as large as what is copied, which for a map of 48 x 48 tokens and 128
        # heads has 2.7 GB.
        heads = max(_EXPANDED // grad.shape[1] ** 2, 1)
        return torch.cat([_sum_diagonals(part, ctx.window) for part in grad.split(heads)]), None


def _lay_out(table: Tensor, window: Window) -> Tensor:
    h, w = window
    views = table.unfold(1, h, 1).unfold(2, w, 1)  # [., i, j, k', l'] = table[., i + k', j + l']
    return views.flip(3, 4).reshape(table.shape[0], h * w, h * w)


def _sum_diagonals(grad: Tensor, window: Window) -> Tensor:
    """(heads, N, N) -> (heads, 2 h - 1, 2 w - 1)."""
    h, w = window
    grad = grad.view(-1, h, w, h, w).flip(3, 4)
    grad = _sum_antidiagonals(grad.permute(0, 2, 4, 1, 3))  # (heads, w, w, 2 h - 1)
    return _sum_antidiagonals(grad.permute(0, 3, 1, 2))


def _sum_antidiagonals(x: Tensor) -> Tensor:
    """(..., n, n) -> (..., 2 n - 1): the sum over i + k of x[., i, k]."""
    n = x.shape[-1]
    # Row i, filled to 2 n with zeros and read as rows of 2 n - 1, is shifted by i.
    rows = F.pad(x, (0, n)).flatten(-2)[..., : n * (2 * n - 1)]
    return rows.view(*x.shape[:-2], n, 2 * n - 1).sum(dim=-2)


def expand(table: Tensor, window: Window) -> Tensor:
    """(heads, 2 h - 1, 2 w - 1) -> (heads, N, N), N = h * w: bias[., (i, j), (k, l)] = table[., i - k, j - l]."""
    return _lay_out(table, window) if takes_no_functions() else _Expand.apply(table, window)


def sub_table(table: Tensor, window: Window) -> Tensor:
    """(heads, 2 H - 1, 2 W - 1) -> (heads, 2 h - 1, 2 w - 1): the offsets that occur in a smaller window (h, w)."""
    top, left = ((side + 1) // 2 - own for side, own in zip(table.shape[1:], window))
    return table[:, top : top + 2 * window[0] - 1, left : left + 2 * window[1] - 1]


class BiasCache:
    """The expanded (heads, N, N) biases of windows of several shapes, cached from one inference call to the next.

    The cache is valid while the bias's parameters have the values it was computed from: they are compared at every call,
    for not every way of changing them leaves a trace (an EMA hook swaps ``.data``). The last 9 shapes are cached, the most
    that one map has, and of them at most ``limit`` numbers. Only on CPUs: on a GPU, comparing would wait for the device,
    and computing them again costs little. Where something is attached to the bias (a hook, an adapter), it is called every
    time. Copies and files of a model are without it.
    """

    def __init__(self, limit: int = 2**22):
        self.limit = limit
        # The parameters, and what they give; replaced as a whole.
        self._cached: tuple[list[Tensor], dict[tuple[Any, ...], Tensor]] = ([], {})

    def __reduce__(self) -> Any:
        return BiasCache, (self.limit,)

    @staticmethod
    def _may_serve(bias: nn.Module, parameters: Sequence[Tensor]) -> bool:
        return (
            bool(parameters)
            and not torch.is_grad_enabled()
            and parameters[0].device.type == 'cpu'
            and may_cache()
            and all(is_plain(part, *_PARTS) for part in bias.modules())
        )

    def __call__(self, bias: nn.Module, windows: Sequence[Window], pretrained_window: Window) -> list[Tensor]:
        """The biases of windows of these shapes, in this order."""
        parameters = list(bias.parameters())
        if not self._may_serve(bias, parameters):
            table = bias(largest(windows), pretrained_window)
            return [expand(sub_table(table, window), window) for window in windows]
        # Other threads may be in here too: each works on what it saw, and puts whole results in place.
        source, cached = self._cached
        cached = dict(cached)
        if len(source) != len(parameters) or not all(map(_same, source, parameters)):
            # Tensors made under inference mode could not be compared or copied outside it.
            with torch.inference_mode(False):
                source, cached = [parameter.detach().clone() for parameter in parameters], {}
        found = []
        for window in windows:
            expanded = cached.pop((window, pretrained_window), None)
            if expanded is None:
                with torch.inference_mode(False), torch.no_grad():
                    expanded = expand(bias(window, pretrained_window), window)
            found.append(expanded)
            cached[window, pretrained_window] = expanded  # the last used stands last
        while len(cached) > 9 or sum(tensor.numel() for tensor in cached.values()) > self.limit:
            del cached[next(iter(cached))]
        self._cached = source, cached
        return found


@dataclass(frozen=True)
class WindowBias:
    """The position bias of windows of some shapes, in the form that a kernel requires."""

    module: nn.Module
    windows: Sequence[Window]
    pretrained_window: Window
    expand: Callable[[nn.Module, Sequence[Window], Window], list[Tensor]]  # a BiasCache, or a function in its place

    def expanded(self) -> list[Tensor]:
        """(heads, N, N) for each window."""
        return self.expand(self.module, self.windows, self.pretrained_window)

    def table(self) -> Tensor:
        """(heads, 2 h - 1, 2 w - 1) of a window (h, w) that all of them fit into."""
        return self.module(largest(self.windows), self.pretrained_window)


def largest(windows: Sequence[Window]) -> Window:
    """The smallest window that all of them fit into."""
    return max(h for h, _ in windows), max(w for _, w in windows)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
