"""Scaled cosine attention in windows, and its kernels (SwinV2, section 3.2, eq. 2).

A kernel maps qkv (T, 3, heads, d), T tokens in the order of the windows; the scale (heads,); one bias (heads, N, N) per
group of windows; and the groups to (T, heads, d): softmax(scale cos(q, k) + bias) v in every window. Without a scale it is
the dot-product attention of SwinV1, softmax(q k' / sqrt(d) + bias) v. All give the same result. A kernel may use qkv up.
"""

from math import log
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

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
_CHUNK = {'cpu': 2**20, 'cuda': 2**25}


def unit_vectors(x: Tensor) -> Tensor:
    """(..., d) -> (..., d) float32 (float64 stays): each vector divided by its length, zero if it has none."""
    x = x if x.dtype == torch.float64 else x.float()
    square = x.square().sum(dim=-1, keepdim=True)
    return x * (square.clamp_min(_MIN_LENGTH**2).rsqrt() * (square > _MIN_LENGTH**2))


def scaled_query_key(q: Tensor, k: Tensor, scale: Optional[Tensor]) -> Tuple[Tensor, Tensor]:
    """q, k (T, heads, d) -> the vectors whose dot product is the logit, but for the bias."""
    if scale is None:
        return q * q.shape[-1]**-0.5, k
    return unit_vectors(q) * scale[:, None], unit_vectors(k)


def _scale_(qkv: Tensor, scale: Optional[Tensor]) -> Optional[Tensor]:
    """``scaled_query_key`` for q and k of qkv (T, 3, heads, d), in place. With a scale it returns one over their lengths,
    (T, 2, heads, 1) float32 or float64, zero where there is none."""
    qk = qkv[:, :2]
    if scale is None:
        qk[:, 0].mul_(qkv.shape[-1]**-0.5)
        return None
    precise = torch.promote_types(scale.dtype, torch.float32)
    lengths = torch.linalg.vector_norm(qk, dim=-1, keepdim=True, dtype=precise)
    inverse = lengths.clamp_min(_MIN_LENGTH).reciprocal_().mul_(lengths > _MIN_LENGTH)
    qk.mul_(inverse * torch.stack((scale, torch.ones_like(scale)))[:, :, None])
    return inverse


def _by_group(attend: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor,
              biases: Sequence[Tensor], groups: Sequence[WindowGroup]) -> Tensor:
    """``attend`` maps q, k, v (windows, heads, N, d), q scaled, and a bias (heads, N, N) to (windows, heads, N, d). It
    is called once for each group with its part of q, k and v (T, heads, d)."""
    tokens = [group.tokens for group in groups]
    outs = []
    for *parts, bias, group in zip(q.split(tokens), k.split(tokens), v.split(tokens), biases, groups):
        q, k, v = (part.unflatten(0, (group.count, -1)).transpose(1, 2) for part in parts)
        outs.append(attend(q, k, v, bias).transpose(1, 2).flatten(0, 1))
    return outs[0] if len(outs) == 1 else torch.cat(outs)


def _eager(qkv: Tensor, scale: Optional[Tensor], biases: Sequence[Tensor], groups: Sequence[WindowGroup]) -> Tensor:
    """The reference: the formula as it stands."""

    def attend(q, k, v, bias):
        return (q @ k.transpose(-2, -1) + bias).softmax(dim=-1).to(v.dtype) @ v

    q, k, v = qkv.unbind(1)
    return _by_group(attend, *scaled_query_key(q, k, scale), v, biases, groups)


def _dot_product_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    # Biases reach 16, where bfloat16 resolves 0.06; a GPU's kernel takes no other type than that of q.
    mask = bias if q.device.type == 'cpu' else bias.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[None], scale=1.0)


def _fused(qkv: Tensor, scale: Optional[Tensor], biases: Sequence[Tensor], groups: Sequence[WindowGroup]) -> Tensor:
    """The same through ``scaled_dot_product_attention``."""
    if not torch.is_grad_enabled():
        return _fused_(qkv, scale, biases, groups)[0]
    q, k, v = qkv.unbind(1)
    q, k = scaled_query_key(q, k, scale)
    with torch.autocast(v.device.type, enabled=False):
        return _by_group(_dot_product_attention, q.to(v.dtype), k.to(v.dtype), v, biases, groups)


@torch.no_grad()
def _fused_(qkv: Tensor, scale: Optional[Tensor], biases: Sequence[Tensor],
            groups: Sequence[WindowGroup]) -> Tuple[Tensor, Optional[Tensor]]:
    """``_fused`` without a gradient; uses qkv up, and returns what ``_scale_`` does, too."""
    with torch.autocast(qkv.device.type, enabled=False):
        inverse = _scale_(qkv, scale)
        # Detached, for PyTorch chooses its slow form wherever a bias could need a gradient.
        biases = [bias.detach() for bias in biases]
        q, k, v = qkv.unbind(1)
        return _by_group(_dot_product_attention, q, k, v, biases, groups), inverse


class _Sequential(Function):
    """No weights are kept: the forward pass is the fused one, and the backward makes the weights of some windows at a
    time anew (the paper's sequential attention, section 3.5, exact at any chunk).

    What is kept is qkv with q and k scaled in its place: nobody else needs it, least of all the linear layer that
    made it.
    """

    @staticmethod
    def forward(ctx, qkv, scale, groups, *biases):
        out, inverse = _fused_(qkv.detach(), None if scale is None else scale.detach(), biases, groups)
        ctx.save_for_backward(qkv.detach(), inverse, scale, *biases)
        ctx.groups = groups
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        qkv, inverse, scale, *biases = ctx.saved_tensors
        grad_qkv = torch.empty_like(qkv)
        grad_biases = [torch.zeros_like(bias) for bias in biases]
        with torch.autocast(qkv.device.type, enabled=False):
            for group, rows, windows in _chunks(ctx.groups, qkv):
                shape = (windows, -1, *qkv.shape[1:])
                _backward_of_windows(qkv[rows].view(shape), grad_out[rows].unflatten(0, shape[:2]), biases[group],
                                     grad_qkv[rows].view(shape), grad_biases[group])
            grad_scale = _backward_of_scale_(grad_qkv, qkv, inverse, scale)
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


def _backward_of_windows(qkv: Tensor, grad_out: Tensor, bias: Tensor, grad_qkv: Tensor, grad_bias: Tensor) -> None:
    """qkv (windows, N, 3, heads, d), scaled, and the output's gradient (windows, N, heads, d): fills grad_qkv and
    adds to grad_bias (heads, N, N)."""
    q, k, v = (part.contiguous() for part in qkv.permute(2, 0, 3, 1, 4))  # (windows, heads, N, d) each
    grad_out = grad_out.transpose(1, 2).contiguous()
    weights = (q @ k.transpose(-2, -1)).to(bias.dtype).add_(bias).softmax(dim=-1)
    grad_v = weights.to(v.dtype).transpose(-2, -1) @ grad_out
    grad_scores = (grad_out @ v.transpose(-2, -1)).to(bias.dtype)
    grad_scores = torch._softmax_backward_data(grad_scores, weights, -1, bias.dtype)
    grad_bias += grad_scores.sum(dim=0)
    grad_scores = grad_scores.to(q.dtype)
    grads = grad_qkv.permute(2, 0, 3, 1, 4)
    grads[0], grads[1], grads[2] = grad_scores @ k, grad_scores.transpose(-2, -1) @ q, grad_v


def _backward_of_scale_(grad_qkv: Tensor, qkv: Tensor, inverse: Optional[Tensor],
                        scale: Optional[Tensor]) -> Optional[Tensor]:
    """The gradient of qkv after ``_scale_`` -> before, in place; returns that of the scale.

    u = x / |x| has the slope (1 - u u') / |x|: no part of the gradient along u is left.
    """
    if scale is None:
        grad_qkv[:, 0].mul_(qkv.shape[-1]**-0.5)
        return None
    scales = torch.stack((scale, torch.ones_like(scale)))[:, :, None]
    grad, normalised = grad_qkv[:, :2], qkv[:, :2]
    along = (grad * normalised).sum(dim=-1, keepdim=True, dtype=inverse.dtype) / scales
    grad.mul_(inverse * scales).sub_(normalised * (along * inverse))
    return along[:, 0].sum(dim=(0, 2)).to(scale.dtype)


def _sequential(qkv: Tensor, scale: Optional[Tensor], biases: Sequence[Tensor], groups: Sequence[WindowGroup]) -> Tensor:
    if not torch.is_grad_enabled():
        return _fused(qkv, scale, biases, groups)
    if torch.jit.is_tracing():  # MMEngine counts multiply-adds in a trace, which takes no functions of ours
        return _eager(qkv, scale, biases, groups)
    return _Sequential.apply(qkv, scale, tuple(groups), *biases)


def _auto(qkv: Tensor, scale: Optional[Tensor], biases: Sequence[Tensor], groups: Sequence[WindowGroup]) -> Tensor:
    """Sequential on CPUs, where PyTorch's fused kernel takes no bias that needs a gradient; fused on GPUs."""
    return (_sequential if qkv.device.type == 'cpu' else _fused)(qkv, scale, biases, groups)


Kernel = Callable[[Tensor, Optional[Tensor], Sequence[Tensor], Sequence[WindowGroup]], Tensor]
KERNELS: Dict[str, Kernel] = {'auto': _auto, 'eager': _eager, 'fused': _fused, 'sequential': _sequential}


class WindowAttention(nn.Module):
    """(T, C) -> (T, C), T tokens in the order of the windows: multi-head attention, scaled cosine unless said otherwise,
    with a position bias.

    softmax(cos(q, k) min(exp(logit_scale), 100) + bias) v; q and v have biases, k has none.

    Args:
        dim: C.
        num_heads: heads; C is a multiple of it.
        position_bias: a module of ``position_bias.py``.
        kernel: a key of KERNELS.
        similarity: 'cosine', or 'dot_product' for SwinV1's softmax(q k' / sqrt(d) + bias) v.
    """

    def __init__(self, dim: int, num_heads: int, position_bias: nn.Module, kernel: str = 'auto', similarity: str = 'cosine'):
        super().__init__()
        if dim % num_heads:
            raise InputError(f'{dim} channels cannot be split over {num_heads} heads evenly; choose num_heads that '
                             'divide the channels of their stage')
        self.num_heads = num_heads
        self.kernel = kernel
        self.position_bias = position_bias
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), log(10.0))) if similarity == 'cosine' else None
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)
        self._biases = ExpandedBiases()

    def set_window(self, window: Window) -> None:
        """Tell the position bias that its stage's windows change, and forget the expanded biases: those of a table depend on
        the window that it is read for, which no parameter shows."""
        self.position_bias.set_window(window)
        self._biases = ExpandedBiases()

    def forward(self, x: Tensor, geometry: WindowGeometry, reference: Window) -> Tensor:
        """reference: the window that the bias was learned with."""
        qkv, scale, biases = self._project(x, geometry, reference)
        return self.proj(KERNELS[self.kernel](qkv, scale, biases, geometry.groups).flatten(1))

    def attention_maps(self, x: Tensor, geometry: WindowGeometry, reference: Window) -> List[Tensor]:
        """For looking at: the weights (windows, heads, N, N) of each group of windows; a row is a query."""
        qkv, scale, biases = self._project(x, geometry, reference)
        q, k, v = qkv.unbind(1)
        maps: List[Tensor] = []

        def attend(q, k, v, bias):
            maps.append((q @ k.transpose(-2, -1) + bias).softmax(dim=-1))
            return v

        _by_group(attend, *scaled_query_key(q, k, scale), v, biases, geometry.groups)
        return maps

    def scale(self) -> Optional[Tensor]:
        """(heads,) min(exp(logit_scale), 100), or None for the dot product."""
        return None if self.logit_scale is None else self.logit_scale.clamp(max=log(100.0)).exp().flatten()

    def _project(self, x: Tensor, geometry: WindowGeometry,
                 reference: Window) -> Tuple[Tensor, Optional[Tensor], List[Tensor]]:
        """What a kernel takes, but for the groups."""
        qkv_bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        qkv = F.linear(x, self.qkv.weight, qkv_bias).unflatten(1, (3, self.num_heads, -1))
        return qkv, self.scale(), self._biases(self.position_bias, [group.window for group in geometry.groups], reference)
