"""Scaled cosine attention in windows, and its kernels (SwinV2, section 3.2, eq. 2)."""

from math import log
from typing import Callable, Dict, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ...errors import InputError
from .position_bias import expand
from .windows import Window, WindowGroup

# Below this length a query or key has no direction: it becomes exactly zero, and so does its gradient. Dividing by
# a tiny length instead would overflow half precision on tokens that are all zero.
_MIN_LENGTH = 1e-6

# Attention weights that the sequential kernel holds at a time.
_CHUNK = 2**20


def unit_vectors(x: Tensor) -> Tensor:
    """(..., d) -> (..., d) float32 (float64 stays): each vector divided by its length, zero if it has none."""
    x = x if x.dtype == torch.float64 else x.float()
    square = x.square().sum(dim=-1, keepdim=True)
    inverse_length = square.clamp_min(_MIN_LENGTH**2).rsqrt() * (square > _MIN_LENGTH**2)
    return x * inverse_length


def _eager(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """(W, heads, N, d) x 3, (heads, N, N) -> (W, heads, N, d). The reference."""
    scores = q @ k.transpose(-2, -1) + bias
    return scores.softmax(dim=-1).to(v.dtype) @ v


def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """The same through ``scaled_dot_product_attention``."""
    q, k = q.to(v.dtype), k.to(v.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(v.dtype)[None], scale=1.0)


class _Sequential(Function):
    """The same, some windows at a time: weights are dropped in the forward pass and made again in the backward."""

    @staticmethod
    def forward(ctx, q, k, v, bias):
        ctx.save_for_backward(q, k, v, bias)
        out = torch.empty_like(v)
        with torch.autocast(q.device.type, enabled=False):
            for some in _chunks(q):
                out[some] = _weights(q[some], k[some], bias).to(v.dtype) @ v[some]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        q, k, v, bias = ctx.saved_tensors
        grads = [torch.empty_like(x) for x in (q, k, v)]
        grad_q, grad_k, grad_v = grads
        grad_bias = torch.zeros_like(bias)
        with torch.autocast(q.device.type, enabled=False):
            for some in _chunks(q):
                weights = _weights(q[some], k[some], bias)
                grad_v[some] = weights.to(v.dtype).transpose(-2, -1) @ grad_out[some]
                grad_scores = (grad_out[some] @ v[some].transpose(-2, -1)).to(weights.dtype)
                grad_scores -= (grad_scores * weights).sum(dim=-1, keepdim=True)
                grad_scores *= weights
                grad_bias += grad_scores.sum(dim=0)
                grad_scores = grad_scores.to(q.dtype)
                grad_q[some] = grad_scores @ k[some]
                grad_k[some] = grad_scores.transpose(-2, -1) @ q[some]
        return *grads, grad_bias


def _chunks(q: Tensor) -> Iterator[slice]:
    """Slices of the windows of q, each with about _CHUNK weights."""
    windows, heads, slots, _ = q.shape
    step = max(_CHUNK // (heads * slots**2), 1)
    return (slice(start, start + step) for start in range(0, windows, step))


def _weights(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k' + bias), in the precision of the bias."""
    scores = (q @ k.transpose(-2, -1)).to(bias.dtype)
    return scores.add_(bias).softmax(dim=-1)


def _sequential(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    return _Sequential.apply(q.to(v.dtype), k.to(v.dtype), v, bias)


def _auto(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Fused, but for CPU training: there PyTorch's fused kernel takes no bias that needs a gradient."""
    needs_bias_gradient = bias.requires_grad and torch.is_grad_enabled()
    return (_eager if needs_bias_gradient and q.device.type == 'cpu' else _fused)(q, k, v, bias)


KERNELS: Dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    'auto': _auto,
    'eager': _eager,
    'fused': _fused,
    'sequential': _sequential,
}


def windowed_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, groups: Sequence[WindowGroup],
                       kernel: str) -> Tensor:
    """softmax(q k' + bias + mask) v in every window.

    q, k, v: (num_windows, heads, N, d), q already scaled; bias: (heads, N, N); groups cover all windows in order.
    Returns (num_windows, heads, N, d). Only the windows at the border are masked, a group at a time, so that no
    (num_windows, N, N) mask is ever made.
    """
    out = []
    for group in groups:
        windows = slice(group.start, group.stop)
        group_bias = bias if group.mask is None else bias + group.mask.to(bias.dtype)
        out.append(KERNELS[kernel](q[windows], k[windows], v[windows], group_bias))
    return out[0] if len(out) == 1 else torch.cat(out)


class WindowAttention(nn.Module):
    """(num_windows, N, C) -> (num_windows, N, C): multi-head scaled cosine attention with a position bias.

    softmax(cos(q, k) min(exp(logit_scale), 100) + bias + mask) v; q and v have biases, k has none.

    Args:
        dim: C.
        num_heads: heads; C is a multiple of it.
        position_bias: a module of ``position_bias.py``.
        kernel: a key of KERNELS. All give the same result.
    """

    def __init__(self, dim: int, num_heads: int, position_bias: nn.Module, kernel: str = 'auto'):
        super().__init__()
        if dim % num_heads:
            raise InputError(f'{dim} channels cannot be split over {num_heads} heads evenly; choose num_heads that '
                             'divide the channels of their stage')
        self.num_heads = num_heads
        self.kernel = kernel
        self.position_bias = position_bias
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), log(10.0)))
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, window: Window, reference: Window, groups: Sequence[WindowGroup]) -> Tensor:
        """window, reference: (h, w) with N = h * w, and the window the bias was learned with."""
        num_windows, slots, dim = x.shape
        qkv_bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        qkv = F.linear(x, self.qkv.weight, qkv_bias)
        q, k, v = qkv.view(num_windows, slots, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)

        q = unit_vectors(q) * self.logit_scale.clamp(max=log(100.0)).exp()
        bias = expand(self.position_bias(window, reference), window)
        out = windowed_attention(q, unit_vectors(k), v, bias, groups, self.kernel)
        return self.proj(out.transpose(1, 2).reshape(num_windows, slots, dim))
