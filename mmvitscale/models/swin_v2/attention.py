"""Scaled cosine attention within windows (SwinV2, section 3.2, eq. 2): the formula and the module.

softmax(cos(q, k) min(exp(logit_scale), 100) + bias) v in every window; SwinV1's dot-product attention, softmax(q k' / sqrt(d) +
bias) v, for comparison. ``eager`` is the formula as it stands; ``kernels.py`` has faster and smaller forms of it.
"""

from collections.abc import Callable, Sequence
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvitscale.errors import InputError
from mmvitscale.models.layers.attachments import is_plain
from mmvitscale.models.swin_v2.position_bias import BiasCache, WindowBias
from mmvitscale.models.swin_v2.windows import Window, WindowGeometry, WindowGroup

# qkv (T, 3, heads, d), T tokens in the order of the windows; the scale (heads,), None for the dot product; the position bias;
# the groups of windows -> (T, heads, d). A kernel may overwrite qkv.
Kernel = Callable[[Tensor, Tensor | None, WindowBias, Sequence[WindowGroup]], Tensor]
ATTENTION_TYPES = ('cosine', 'dot_product')
FLEX_CHANNELS = 16  # that FlexAttention requires in a head

# Below this length a query or key has no direction: it becomes exactly zero, and so does its gradient. Dividing by
# a tiny length instead would overflow half precision on tokens that are all zero.
MIN_LENGTH = 1e-6


def unit_vectors(x: Tensor) -> Tensor:
    """(..., d) -> (..., d) float32 (float64 stays): each vector divided by its length, zero if it has none."""
    x = x if x.dtype == torch.float64 else x.float()
    square = x.square().sum(dim=-1, keepdim=True)
    return x * (square.clamp_min(MIN_LENGTH**2).rsqrt() * (square > MIN_LENGTH**2))


def scaled_query_key(q: Tensor, k: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """q, k (T, heads, d) -> the vectors whose dot product is the logit before the bias."""
    if scale is None:
        return q * q.shape[-1] ** -0.5, k
    return unit_vectors(q) * scale[:, None], unit_vectors(k)


def attend_by_group(
    attend: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    biases: Sequence[Tensor],
    groups: Sequence[WindowGroup],
) -> Tensor:
    """q, k, v (T, heads, d), q scaled -> (T, heads, d). ``attend`` maps q, k, v (windows, heads, N, d) and a bias (heads, N, N)
    to (windows, heads, N, d); it is called once for each group of windows of one shape."""
    tokens = [group.tokens for group in groups]
    outs = []
    for *parts, bias, group in zip(q.split(tokens), k.split(tokens), v.split(tokens), biases, groups):
        q, k, v = (part.unflatten(0, (group.count, group.slots)).transpose(1, 2) for part in parts)
        outs.append(attend(q, k, v, bias).transpose(1, 2).flatten(0, 1))
    return outs[0] if len(outs) == 1 else torch.cat(outs)


def eager(qkv: Tensor, scale: Tensor | None, bias: WindowBias, groups: Sequence[WindowGroup]) -> Tensor:
    """A Kernel: the formula as it stands, which all others are compared with."""

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1) + bias).softmax(dim=-1).to(v.dtype) @ v

    q, k, v = qkv.unbind(1)
    return attend_by_group(attend, *scaled_query_key(q, k, scale), v, bias.expanded(), groups)


# By name; ``kernels.py`` adds auto, flex, fused and sequential, ``tuning.py`` tuned. All give the same result.
KERNELS: dict[str, Kernel] = {'eager': eager}


class WindowAttention(nn.Module):
    """(T, C) -> (T, C), T tokens in the order of the windows: multi-head attention within windows, with a position bias.

    q and v have biases, k has none; ``logit_scale`` starts at log 10 for each head.

    Args:
        dim: C.
        num_heads: heads; C is a multiple of it.
        position_bias: a module of ``position_bias.py``.
        kernel: a key of KERNELS.
        attention_type: 'cosine', or 'dot_product' for SwinV1's softmax(q k' / sqrt(d) + bias) v.

    Raises:
        InputError: for heads that do not divide C, or are too small for the kernel.
    """

    def __init__(
        self, dim: int, num_heads: int, position_bias: nn.Module, kernel: str = 'auto', attention_type: str = 'cosine'
    ):
        super().__init__()
        if dim % num_heads:
            raise InputError(
                f'{dim} channels cannot be split over {num_heads} heads evenly; choose num_heads that '
                'divide the channels of their stage'
            )
        if kernel == 'flex' and dim // num_heads < FLEX_CHANNELS:
            raise InputError(
                f'attention flex found with {dim // num_heads} channels a head, but it needs {FLEX_CHANNELS}; '
                'choose attention auto, or fewer heads'
            )
        self.num_heads = num_heads
        self.kernel = kernel
        self.position_bias = position_bias
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), log(10.0))) if attention_type == 'cosine' else None
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)
        self._bias_cache = BiasCache()

    def forward(self, x: Tensor, geometry: WindowGeometry, pretrained_window: Window) -> Tensor:
        """geometry: the windows that the tokens are in. pretrained_window: the window that the position bias was trained
        with."""
        qkv, bias = self._project(x, geometry, pretrained_window)
        return self.proj(KERNELS[self.kernel](qkv, self.scale(), bias, geometry.groups).flatten(1))

    def query_key_value(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., 3 C), q, k and v with their biases: a tensor that nobody else holds."""
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        if is_plain(self.qkv, nn.Linear):
            return F.linear(x, self.qkv.weight, bias)
        qkv = self.qkv(x)
        return qkv + bias.to(qkv.dtype)

    def scale(self) -> Tensor | None:
        """(heads,): min(exp(logit_scale), 100), or None for the dot product."""
        return None if self.logit_scale is None else self.logit_scale.clamp(max=log(100.0)).exp().flatten()

    def attention_maps(self, x: Tensor, geometry: WindowGeometry, pretrained_window: Window) -> list[Tensor]:
        """For analysis: the attention weights (windows, heads, N, N) of each group of windows; a row is a query."""
        maps: list[Tensor] = []

        def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
            maps.append((q @ k.transpose(-2, -1) + bias).softmax(dim=-1))
            return v

        qkv, bias = self._project(x, geometry, pretrained_window)
        q, k, v = qkv.unbind(1)
        attend_by_group(attend, *scaled_query_key(q, k, self.scale()), v, bias.expanded(), geometry.groups)
        return maps

    def set_window(self, window: Window) -> None:
        """Pass the stage's new window to the position bias, and empty the cache of expanded biases: those of a table depend on
        the window that it is resized to, which no parameter shows."""
        self.position_bias.set_window(window)
        self._bias_cache = BiasCache()

    def _project(self, x: Tensor, geometry: WindowGeometry, pretrained_window: Window) -> tuple[Tensor, WindowBias]:
        """(T, C) -> qkv (T, 3, heads, d), and the position bias of these windows."""
        windows = [group.window for group in geometry.groups]
        qkv = self.query_key_value(x).unflatten(1, (3, self.num_heads, x.shape[1] // self.num_heads))
        return qkv, WindowBias(self.position_bias, windows, pretrained_window, self._bias_cache)
