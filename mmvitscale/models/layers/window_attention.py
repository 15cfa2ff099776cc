"""Scaled cosine attention in windows, and its kernels (SwinV2, section 3.2, eq. 2).

A kernel maps qkv (T, 3, heads, d), T tokens in the order of the windows; the scale (heads,); the position bias; and the
groups of windows to (T, heads, d): softmax(scale cos(q, k) + bias) v in every window. Without a scale it is the dot-product
attention of SwinV1, softmax(q k' / sqrt(d) + bias) v. All give the same result. A kernel may use qkv up.
"""

from collections.abc import Callable, Sequence
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ...errors import InputError
from .cosine import backward_of_scale_, scale_, scaled_query_key
from .flex_attention import flex_attention
from .position_bias import ExpandedBiases, WindowBias
from .windows import Window, WindowGeometry, WindowGroup

# Attention weights, or numbers of queries and keys, that are worked on at a time: with their gradients they fit into a
# processor's cache, and on a GPU they fill it. A graph that is compiled has few pieces, however large they are.
_CHUNK = {'cpu': 2**20, 'cuda': 2**25}

# Where FlexAttention is compiled for queries and keys that need gradients.
FLEX_DEVICES = ('cuda',)
_FLEX_CHANNELS = 16  # that it needs in a head

# Tokens of a window up to which PyTorch's fused kernel for CPUs, made for long sequences, is slower than single steps.
_SMALL_WINDOW = 144


def _by_group(
    attend: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    biases: Sequence[Tensor],
    groups: Sequence[WindowGroup],
) -> Tensor:
    """``attend`` maps q, k, v (windows, heads, N, d), q scaled, and a bias (heads, N, N) to (windows, heads, N, d). It
    is called once for each group with its part of q, k and v (T, heads, d)."""
    tokens = [group.tokens for group in groups]
    outs = []
    for *parts, bias, group in zip(q.split(tokens), k.split(tokens), v.split(tokens), biases, groups):
        q, k, v = (part.unflatten(0, (group.count, -1)).transpose(1, 2) for part in parts)
        outs.append(attend(q, k, v, bias).transpose(1, 2).flatten(0, 1))
    return outs[0] if len(outs) == 1 else torch.cat(outs)


def _windows_at_a_time(device: torch.device, heads: int, slots: int, dim: int) -> int:
    limit = _CHUNK['cuda'] if torch.compiler.is_compiling() else _CHUNK.get(device.type, _CHUNK['cuda'])
    return max(limit // (heads * slots * max(slots, 2 * dim)), 1)


def _pieces(groups: Sequence[WindowGroup], qkv: Tensor) -> tuple[list[WindowGroup], list[int]]:
    """The groups cut into pieces of at most _CHUNK, in the same order, and for each the index of its group."""
    heads, dim = qkv.shape[2:]
    pieces, indices = [], []
    for index, group in enumerate(groups):
        step = _windows_at_a_time(qkv.device, heads, group.window[0] * group.window[1], dim)
        for first in range(0, group.count, step):
            pieces.append(WindowGroup(group.window, min(step, group.count - first)))
            indices.append(index)
    return pieces, indices


def _eager(qkv: Tensor, scale: Tensor | None, bias: WindowBias, groups: Sequence[WindowGroup]) -> Tensor:
    """The reference: the formula as it stands."""

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1) + bias).softmax(dim=-1).to(v.dtype) @ v

    q, k, v = qkv.unbind(1)
    return _by_group(attend, *scaled_query_key(q, k, scale), v, bias.expanded(), groups)


def _dot_product_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    # Biases reach 16, where bfloat16 resolves 0.06; a GPU's kernel takes no other type than that of q.
    mask = bias if q.device.type == 'cpu' else bias.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[None], scale=1.0)


def _fused(qkv: Tensor, scale: Tensor | None, bias: WindowBias, groups: Sequence[WindowGroup]) -> Tensor:
    """The same through ``scaled_dot_product_attention``."""
    biases = bias.expanded()
    if not torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _fused_(qkv, scale, biases, groups)[0]
    q, k, v = qkv.unbind(1)
    q, k = scaled_query_key(q, k, scale)
    # In pieces, for a GPU's kernel makes the bias's gradient for every window before it sums them.
    pieces, indices = _pieces(groups, qkv)
    with torch.autocast(v.device.type, enabled=False):
        return _by_group(_dot_product_attention, q.to(v.dtype), k.to(v.dtype), v, [biases[i] for i in indices], pieces)


@torch.no_grad()
def _fused_(
    qkv: Tensor, scale: Tensor | None, biases: Sequence[Tensor], groups: Sequence[WindowGroup]
) -> tuple[Tensor, Tensor | None]:
    """``_fused`` without a gradient; uses qkv up, and returns what ``scale_`` does, too."""

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        # Of 16 bits the fused kernel alone has its scores in float32.
        small = q.device.type == 'cpu' and q.shape[2] <= _SMALL_WINDOW and q.dtype in (torch.float32, torch.float64)
        # Detached, for PyTorch chooses its slow form wherever a bias could need a gradient.
        return (_attend_in_pieces if small else _dot_product_attention)(q, k, v, bias.detach())

    with torch.autocast(qkv.device.type, enabled=False):
        inverse = scale_(qkv, scale)
        q, k, v = qkv.unbind(1)
        return _by_group(attend, q, k, v, biases, groups), inverse


def _attend_in_pieces(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    count, heads, slots, dim = q.shape
    out = q.new_empty(count, slots, heads, dim).transpose(1, 2)
    step = _windows_at_a_time(q.device, heads, slots, dim)
    for queries, keys, values, target in zip(q.split(step), k.split(step), v.split(step), out.split(step)):
        target.copy_(_weights(queries, keys, bias).to(v.dtype) @ values)
    return out


def _weights(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k' + bias), in float32 at least."""
    scores = q @ k.transpose(-2, -1)
    return scores.to(torch.promote_types(bias.dtype, torch.float32)).add_(bias).softmax(dim=-1)


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
        grad_scale = None if scale is None else torch.zeros_like(scale, dtype=inverse.dtype)
        start = 0
        with torch.autocast(qkv.device.type, enabled=False):
            for piece, index in zip(*_pieces(ctx.groups, qkv)):
                rows = slice(start, start + piece.tokens)
                q, k, v = _by_head(qkv[rows], piece).contiguous()
                grads, grad_bias = _backward_of_windows(
                    q, k, v, _by_head(grad_out[rows, None], piece)[0].contiguous(), biases[index]
                )
                grad_biases[index] += grad_bias
                if scale is None:
                    grads[0].mul_(q.shape[-1] ** -0.5)
                else:
                    lengths = _by_head(inverse[rows], piece)
                    grads[0], along = backward_of_scale_(grads[0], q, lengths[0], scale.view(-1, 1, 1))
                    grads[1], _ = backward_of_scale_(grads[1], k, lengths[1], 1.0)
                    grad_scale += along.sum(dim=(0, 2, 3))
                for target, grad in zip(_by_head(grad_qkv[rows], piece), grads):
                    target.copy_(grad)
                start = rows.stop
        return grad_qkv, None if scale is None else grad_scale.to(scale.dtype), None, *grad_biases


def _by_head(x: Tensor, piece: WindowGroup) -> Tensor:
    """(tokens of a piece, n, heads, d) -> (n, windows, heads, N, d)."""
    return x.unflatten(0, (piece.count, -1)).permute(2, 0, 3, 1, 4)


def _backward_of_windows(q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor, bias: Tensor) -> tuple[list[Tensor], Tensor]:
    """q and k (windows, heads, N, d), scaled, and the output's gradient -> those of q, k, v, and of the bias (heads, N, N).

    Of P = softmax(S), O = P v it is dS = P dP - P D, dP = dO v', D = sum_j P_j dP_j. FlashAttention's D, the product of an
    output and its gradient, is cheaper, but not of the very weights that it must cancel: in 16 bits the scale's gradient would
    be ten times as far off.
    """
    weights = _weights(q, k, bias)
    grad_v = weights.to(v.dtype).transpose(-2, -1) @ grad_out
    grad_scores = (grad_out @ v.transpose(-2, -1)).to(weights.dtype).mul_(weights)
    grad_scores.addcmul_(weights, grad_scores.sum(dim=-1, keepdim=True), value=-1)
    grad_bias = grad_scores.sum(dim=0)
    grad_scores = grad_scores.to(q.dtype)
    return [grad_scores @ k, grad_scores.transpose(-2, -1) @ q, grad_v], grad_bias


def _sequential(qkv: Tensor, scale: Tensor | None, bias: WindowBias, groups: Sequence[WindowGroup]) -> Tensor:
    if not torch.is_grad_enabled():
        return _fused(qkv, scale, bias, groups)
    if torch.jit.is_tracing():  # MMEngine counts multiply-adds in a trace, which takes no functions of ours
        return _eager(qkv, scale, bias, groups)
    return _Sequential.apply(qkv, scale, tuple(groups), *bias.expanded())


def _auto(qkv: Tensor, scale: Tensor | None, bias: WindowBias, groups: Sequence[WindowGroup]) -> Tensor:
    """Sequential on CPUs, where PyTorch's fused kernel takes no bias that needs a gradient; fused on GPUs."""
    return (_sequential if qkv.device.type == 'cpu' else _fused)(qkv, scale, bias, groups)


def _flex(qkv: Tensor, scale: Tensor | None, bias: WindowBias, groups: Sequence[WindowGroup]) -> Tensor:
    """The same through FlexAttention on the devices that it is made for, elsewhere as ``auto``."""
    if qkv.device.type not in FLEX_DEVICES or torch.jit.is_tracing():
        return _auto(qkv, scale, bias, groups)
    with torch.autocast(qkv.device.type, enabled=False):
        return flex_attention(qkv, scale, bias.table(), groups)


Kernel = Callable[[Tensor, Tensor | None, WindowBias, Sequence[WindowGroup]], Tensor]
KERNELS: dict[str, Kernel] = {'auto': _auto, 'eager': _eager, 'flex': _flex, 'fused': _fused, 'sequential': _sequential}


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
            raise InputError(
                f'{dim} channels cannot be split over {num_heads} heads evenly; choose num_heads that '
                'divide the channels of their stage'
            )
        if kernel == 'flex' and dim // num_heads < _FLEX_CHANNELS:
            raise InputError(
                f'attention flex found with {dim // num_heads} channels a head, but it needs {_FLEX_CHANNELS}; '
                'choose attention auto, or fewer heads'
            )
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
        return self.proj(KERNELS[self.kernel](*self._project(x, geometry, reference), geometry.groups).flatten(1))

    def attention_maps(self, x: Tensor, geometry: WindowGeometry, reference: Window) -> list[Tensor]:
        """For looking at: the weights (windows, heads, N, N) of each group of windows; a row is a query."""
        qkv, scale, bias = self._project(x, geometry, reference)
        q, k, v = qkv.unbind(1)
        maps: list[Tensor] = []

        def attend(q, k, v, bias):
            maps.append((q @ k.transpose(-2, -1) + bias).softmax(dim=-1))
            return v

        _by_group(attend, *scaled_query_key(q, k, scale), v, bias.expanded(), geometry.groups)
        return maps

    def scale(self) -> Tensor | None:
        """(heads,) min(exp(logit_scale), 100), or None for the dot product."""
        return None if self.logit_scale is None else self.logit_scale.clamp(max=log(100.0)).exp().flatten()

    def _project(self, x: Tensor, geometry: WindowGeometry, reference: Window) -> tuple[Tensor, Tensor | None, WindowBias]:
        """What a kernel takes, but for the groups."""
        qkv_bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        qkv = F.linear(x, self.qkv.weight, qkv_bias).unflatten(1, (3, self.num_heads, -1))
        windows = [group.window for group in geometry.groups]
        return qkv, self.scale(), WindowBias(self.position_bias, windows, reference, self._biases)
