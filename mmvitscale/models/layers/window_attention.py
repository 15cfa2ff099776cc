"""Scaled cosine attention in windows, and its kernels (SwinV2, section 3.2, eq. 2).

A kernel maps qkv (T, 3, heads, d), T tokens in the order of the windows; the scale (heads,); one bias (heads, N, N) per
group of windows; and the groups to (T, heads, d): softmax(scale cos(q, k) + bias) v in every window. All give the same
result.
"""

from math import log
from typing import Callable, Dict, Iterator, List, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ...errors import InputError
from .position_bias import ExpandedBiases
from .windows import Window, WindowGeometry, WindowGroup

# Below this length a query or key has no direction: it becomes exactly zero, and so does its gradient. Dividing by
# a tiny length instead would overflow half precision on tokens that are all zero.
_MIN_LENGTH = 1e-6

# Attention weights that the sequential kernel holds at a time: with their gradients they fit into a processor's cache,
# and on a GPU they fill it.
_CHUNK = {'cpu': 2**18, 'cuda': 2**25}


def inverse_lengths(x: Tensor) -> Tensor:
    """(..., d) float32 or float64 -> (..., 1): one over each vector's length, zero if it has none."""
    square = x.square().sum(dim=-1, keepdim=True)
    return square.clamp_min(_MIN_LENGTH**2).rsqrt() * (square > _MIN_LENGTH**2)


def _precise(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def unit_vectors(x: Tensor) -> Tensor:
    """(..., d) -> (..., d) float32 (float64 stays): each vector divided by its length, zero if it has none."""
    x = _precise(x)
    return x * inverse_lengths(x)


def _by_group(attend: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]):
    """A kernel from a function of q, k, v (windows, heads, N, d), q scaled, and bias (heads, N, N)."""

    def kernel(qkv: Tensor, scale: Tensor, biases: Sequence[Tensor], groups: Sequence[WindowGroup]) -> Tensor:
        q, k, v = qkv.unbind(1)
        q, k = unit_vectors(q) * scale[:, None], unit_vectors(k)
        tokens = [group.tokens for group in groups]
        outs = []
        for *parts, bias, group in zip(q.split(tokens), k.split(tokens), v.split(tokens), biases, groups):
            parts = (part.unflatten(0, (group.count, -1)).transpose(1, 2) for part in parts)
            outs.append(attend(*parts, bias).transpose(1, 2).flatten(0, 1))
        return outs[0] if len(outs) == 1 else torch.cat(outs)

    return kernel


@_by_group
def _eager(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """The reference."""
    return (q @ k.transpose(-2, -1) + bias).softmax(dim=-1).to(v.dtype) @ v


@_by_group
def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """The same through ``scaled_dot_product_attention``."""
    return F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, attn_mask=bias.to(v.dtype)[None], scale=1.0)


class _Sequential(Function):
    """No weights are kept: the forward pass is the fused one, and the backward makes the weights of some windows at a
    time anew (the paper's sequential attention, section 3.5, exact at any chunk)."""

    @staticmethod
    def forward(ctx, qkv, scale, groups, *biases):
        ctx.save_for_backward(qkv, scale, *biases)
        ctx.groups = groups
        with torch.autocast(qkv.device.type, enabled=False):
            return _fused(qkv, scale, biases, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        qkv, scale, *biases = ctx.saved_tensors
        grad_qkv, grad_scale = torch.empty_like(qkv), torch.zeros_like(scale)
        grad_biases = [torch.zeros_like(bias) for bias in biases]
        with torch.autocast(qkv.device.type, enabled=False):
            for group, rows, windows in _chunks(ctx.groups, qkv):
                shape = (windows, -1, *qkv.shape[1:])
                grad_scale += _backward_of_windows(
                    qkv[rows].view(shape), grad_out[rows].unflatten(0, shape[:2]), scale, biases[group],
                    grad_qkv[rows].view(shape), grad_biases[group])
        return grad_qkv, grad_scale, None, *grad_biases


def _chunks(groups: Sequence[WindowGroup], qkv: Tensor) -> Iterator[Tuple[int, slice, int]]:
    """(index of the group, rows of the tokens, number of windows) of pieces with about _CHUNK weights each."""
    heads, start = qkv.shape[2], 0
    for index, group in enumerate(groups):
        slots = group.window[0] * group.window[1]
        step = max(_CHUNK.get(qkv.device.type, _CHUNK['cuda']) // (heads * slots**2), 1)
        for first in range(0, group.count, step):
            windows = min(step, group.count - first)
            yield index, slice(start, start + windows * slots), windows
            start += windows * slots


def _backward_of_windows(qkv: Tensor, grad_out: Tensor, scale: Tensor, bias: Tensor, grad_qkv: Tensor,
                         grad_bias: Tensor) -> Tensor:
    """qkv (windows, N, 3, heads, d) and the output's gradient (windows, N, heads, d): fills grad_qkv, adds to grad_bias
    (heads, N, N), and returns the gradient of the scale (heads,)."""
    dtype, scale = qkv.dtype, scale[:, None, None]
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (windows, heads, N, d) each
    q, k, v = _precise(q).contiguous(), _precise(k).contiguous(), v.contiguous()
    grad_out = grad_out.transpose(1, 2).contiguous()
    inverse_q, inverse_k = inverse_lengths(q), inverse_lengths(k)
    q, k = q * (inverse_q * scale), k * inverse_k
    low_q, low_k = q.to(dtype), k.to(dtype)

    weights = (low_q @ low_k.transpose(-2, -1)).to(bias.dtype).add_(bias).softmax(dim=-1)
    grad_v = weights.to(dtype).transpose(-2, -1) @ grad_out
    grad_scores = (grad_out @ v.transpose(-2, -1)).to(bias.dtype)
    grad_scores = torch._softmax_backward_data(grad_scores, weights, -1, bias.dtype)
    grad_bias += grad_scores.sum(dim=0)
    grad_scores = grad_scores.to(dtype)
    grad_q, grad_k = _precise(grad_scores @ low_k), _precise(grad_scores.transpose(-2, -1) @ low_q)

    # A unit vector's gradient has no part along it: x / |x| has slope (1 - u u') / |x|.
    along_q = (grad_q * q).sum(dim=-1, keepdim=True) / scale
    along_k = (grad_k * k).sum(dim=-1, keepdim=True)
    grads = grad_qkv.permute(2, 0, 3, 1, 4)
    grads[0] = (grad_q * scale - q * along_q) * inverse_q
    grads[1] = (grad_k - k * along_k) * inverse_k
    grads[2] = grad_v
    return along_q.sum(dim=(0, 2, 3))


def _sequential(qkv: Tensor, scale: Tensor, biases: Sequence[Tensor], groups: Sequence[WindowGroup]) -> Tensor:
    return _Sequential.apply(qkv, scale, tuple(groups), *biases)


def _auto(qkv: Tensor, scale: Tensor, biases: Sequence[Tensor], groups: Sequence[WindowGroup]) -> Tensor:
    """Fused, but for CPU training: there PyTorch's fused kernel takes no bias that needs a gradient."""
    needs_bias_gradient = torch.is_grad_enabled() and any(bias.requires_grad for bias in biases)
    return (_sequential if needs_bias_gradient and qkv.device.type == 'cpu' else _fused)(qkv, scale, biases, groups)


Kernel = Callable[[Tensor, Tensor, Sequence[Tensor], Sequence[WindowGroup]], Tensor]
KERNELS: Dict[str, Kernel] = {'auto': _auto, 'eager': _eager, 'fused': _fused, 'sequential': _sequential}


class WindowAttention(nn.Module):
    """(T, C) -> (T, C), T tokens in the order of the windows: multi-head scaled cosine attention with a position bias.

    softmax(cos(q, k) min(exp(logit_scale), 100) + bias) v; q and v have biases, k has none.

    Args:
        dim: C.
        num_heads: heads; C is a multiple of it.
        position_bias: a module of ``position_bias.py``.
        kernel: a key of KERNELS.
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
        self._biases = ExpandedBiases()

    def forward(self, x: Tensor, geometry: WindowGeometry, reference: Window) -> Tensor:
        """reference: the window that the bias was learned with."""
        qkv_bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        qkv = F.linear(x, self.qkv.weight, qkv_bias).unflatten(1, (3, self.num_heads, -1))
        scale = self.logit_scale.clamp(max=log(100.0)).exp().flatten()
        biases: List[Tensor] = self._biases(self.position_bias, [group.window for group in geometry.groups], reference)
        return self.proj(KERNELS[self.kernel](qkv, scale, biases, geometry.groups).flatten(1))
