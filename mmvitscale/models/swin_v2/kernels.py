"""Kernels of window attention: fused, sequential, FlexAttention, and the choice among them.

Each computes what ``attention.eager`` does, gradients included, in less time or memory. They work on pieces: some windows at a
time, whose attention weights fit into a CPU's cache, or fill a GPU.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from mmvitscale.models.layers.transforms import in_functorch, once, takes_no_functions
from mmvitscale.models.swin_v2.attention import KERNELS, MIN_LENGTH, attend_by_group, eager, scaled_query_key
from mmvitscale.models.swin_v2.flex_attention import flex_attention
from mmvitscale.models.swin_v2.position_bias import WindowBias
from mmvitscale.models.swin_v2.windows import WindowGroup

# Attention weights, or numbers of queries and keys, that are computed at a time: with their gradients they fit into a CPU's
# cache, and on a GPU they fill it. A compiled graph should have few pieces, however large they are.
_CHUNK = {'cpu': 2**20, 'cuda': 2**25}

# Where FlexAttention is compiled for queries and keys that need gradients.
FLEX_DEVICES = ('cuda',)

# Tokens of a window up to which PyTorch's fused kernel for CPUs, made for long sequences, is slower than single steps.
_SMALL_WINDOW = 144


def fused(qkv: Tensor, scale: Tensor | None, bias: WindowBias, groups: Sequence[WindowGroup]) -> Tensor:
    """A Kernel: PyTorch's ``scaled_dot_product_attention``; under ``torch.func``, which forbids in-place steps, eager."""
    if in_functorch():
        return eager(qkv, scale, bias, groups)
    biases = bias.expanded()
    if not torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _forward(qkv, scale, biases, _pieces(groups, qkv))[0]
    q, k, v = qkv.unbind(1)
    q, k = scaled_query_key(q, k, scale)
    # In pieces, for a GPU's kernel makes the bias's gradient for every window before it sums them.
    pieces = _pieces(groups, qkv)
    with torch.autocast(v.device.type, enabled=False):
        biases = [biases[piece.group] for piece in pieces]
        windows = [piece.windows for piece in pieces]
        return attend_by_group(_dot_product_attention, q.to(v.dtype), k.to(v.dtype), v, biases, windows)


def sequential(qkv: Tensor, scale: Tensor | None, bias: WindowBias, groups: Sequence[WindowGroup]) -> Tensor:
    """A Kernel: the paper's sequential attention (section 3.5), exact for any chunk. No attention weights are stored for the
    backward pass."""
    if not torch.is_grad_enabled():
        return fused(qkv, scale, bias, groups)
    if takes_no_functions():
        return eager(qkv, scale, bias, groups)
    return _Sequential.apply(qkv, qkv[:0].clone(), scale, tuple(groups), *bias.expanded())


def flex(qkv: Tensor, scale: Tensor | None, bias: WindowBias, groups: Sequence[WindowGroup]) -> Tensor:
    """A Kernel: through PyTorch's FlexAttention on the devices that it is made for, elsewhere as ``auto``."""
    if qkv.device.type not in FLEX_DEVICES or takes_no_functions():
        return auto(qkv, scale, bias, groups)
    with torch.autocast(qkv.device.type, enabled=False):
        return flex_attention(qkv, scale, bias.table(), groups)


def auto(qkv: Tensor, scale: Tensor | None, bias: WindowBias, groups: Sequence[WindowGroup]) -> Tensor:
    """A Kernel: sequential on CPUs, where PyTorch's fused kernel takes no bias that needs a gradient; fused on GPUs."""
    return (sequential if qkv.device.type == 'cpu' else fused)(qkv, scale, bias, groups)


KERNELS.update(auto=auto, flex=flex, fused=fused, sequential=sequential)


def normalize_query_key_(qk: Tensor, scale: Tensor | None) -> Tensor | None:
    """``scaled_query_key`` for queries and keys (2, windows, heads, N, d), in place. With a scale it returns one over their
    lengths, (2, windows, heads, N, 1) float32 or float64, zero where there is none."""
    if scale is None:
        qk[0].mul_(qk.shape[-1] ** -0.5)
        return None
    # Operations on two types make copies, several times slower than one copy that stays in the cache.
    precise = qk.to(torch.promote_types(scale.dtype, torch.float32))
    lengths = torch.linalg.vector_norm(precise, dim=-1, keepdim=True)
    inverse = lengths.clamp_min(MIN_LENGTH).reciprocal_().mul_(lengths > MIN_LENGTH)
    precise[0].mul_(inverse[0] * scale.view(-1, 1, 1))
    precise[1].mul_(inverse[1])
    if precise is not qk:
        qk.copy_(precise)
    return inverse


def normalize_query_key_backward_(
    grad: Tensor, scaled: Tensor, inverse: Tensor, scale: Tensor | float
) -> tuple[Tensor, Tensor]:
    """The gradient of s u, u = x / |x| -> that of x, and that of s at each vector; overwrites ``grad``.

    u has the slope (1 - u u') / |x|: no part of the gradient along u is left.
    """
    grad, scaled = grad.to(inverse.dtype), scaled.to(inverse.dtype)
    along = (grad * scaled).sum(dim=-1, keepdim=True) / scale
    return grad.mul_(inverse * scale).sub_(scaled * (along * inverse)), along


class _Piece(NamedTuple):
    """Some windows of a group: the group's index, the windows, and the rows that their tokens are."""

    group: int
    windows: WindowGroup
    rows: slice

    def by_head(self, x: Tensor) -> Tensor:
        """(T, n, heads, d) -> of this piece (n, windows, heads, N, d)."""
        return x[self.rows].unflatten(0, (self.windows.count, self.windows.slots)).permute(2, 0, 3, 1, 4)


def _pieces(groups: Sequence[WindowGroup], qkv: Tensor) -> list[_Piece]:
    """The groups cut into pieces of at most _CHUNK, in the same order."""
    heads, dim = qkv.shape[2:]
    kind = 'cuda' if torch.compiler.is_compiling() else qkv.device.type
    pieces, start = [], 0
    for index, group in enumerate(groups):
        step = max(_CHUNK.get(kind, _CHUNK['cuda']) // (heads * group.slots * max(group.slots, 2 * dim)), 1)
        for first in range(0, max(group.count, 1), step):  # a batch may be empty
            windows = WindowGroup(group.window, min(step, group.count - first))
            pieces.append(_Piece(index, windows, slice(start, start + windows.tokens)))
            start += windows.tokens
    return pieces


def _dot_product_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    # Biases reach 16, where bfloat16 resolves 0.06; a GPU's kernel takes no other type than that of q.
    mask = bias if q.device.type == 'cpu' else bias.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[None], scale=1.0)


@torch.no_grad()
def _forward(
    qkv: Tensor, scale: Tensor | None, biases: Sequence[Tensor], pieces: Sequence[_Piece], keep: bool = False
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """``fused`` without a gradient. A piece is copied once, and all that is done with it happens while it is in the cache.

    With ``keep`` it also returns of each piece queries, keys and values (3, windows, heads, N, d), normalised, and what
    ``normalize_query_key_`` does.
    """
    out = qkv.new_empty(qkv.shape[0], *qkv.shape[2:])
    kept: list[Tensor] = []
    lengths: list[Tensor] = []
    with torch.autocast(qkv.device.type, enabled=False):
        for piece in pieces:
            parts = piece.by_head(qkv).contiguous()
            inverse = normalize_query_key_(parts[:2], scale)
            if keep:
                kept.append(parts)
                lengths += [] if inverse is None else [inverse]
            q, k, v = parts
            # In 16 bits only the fused kernel has its scores in float32.
            small = q.device.type == 'cpu' and q.shape[2] <= _SMALL_WINDOW and q.dtype in (torch.float32, torch.float64)
            # Detached, for PyTorch chooses its slow form wherever a bias could need a gradient.
            bias = biases[piece.group].detach()
            attended = _weights(q, k, bias) @ v if small else _dot_product_attention(q, k, v, bias)
            piece.by_head(out[:, None])[0].copy_(attended)
    return out, kept, lengths


def _weights(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k' + bias), in float32 at least."""
    if q.dtype != bias.dtype:
        scores = q @ k.transpose(-2, -1)
        return scores.to(torch.promote_types(bias.dtype, torch.float32)).add_(bias).softmax(dim=-1)
    scores = bias.repeat(len(q), 1, 1)  # the product adds to it: one pass less
    scores.baddbmm_(q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2))
    return torch.softmax(scores, dim=-1, out=scores).view(*q.shape[:2], *bias.shape[1:])


class _Sequential(Function):
    """The forward pass is the fused one, and the backward recomputes the attention weights of some windows at a time.

    What is stored is queries, keys and values, normalised and in the order of pieces; the linear layer that made them needs
    them no more. ``source``, nothing of it, leads to where they came from for ``once``.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Any, source: Any, scale: Any, groups: Any, *biases: Any) -> Any:
        pieces = _pieces(groups, qkv)
        out, kept, lengths = _forward(qkv.detach(), None if scale is None else scale.detach(), biases, pieces, keep=True)
        ctx.save_for_backward(scale, source, *biases, *kept, *lengths)
        ctx.pieces, ctx.shape, ctx.biases = pieces, qkv.shape, len(biases)
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Any) -> Any:
        scale, source, *tensors = ctx.saved_tensors  # once: checkpointing gives them no second time
        biases, kept = tensors[: ctx.biases], tensors[ctx.biases :]
        with torch.no_grad():
            grads = _Sequential.gradients(ctx, grad_out, kept, scale, biases)
        return once(grads, [grad_out, scale, source, *biases])

    @staticmethod
    def gradients(ctx: Any, grad_out: Any, kept: Any, scale: Any, biases: Any) -> Any:
        """Of each argument of ``forward``."""
        grad_qkv = grad_out.new_empty(ctx.shape)
        grad_biases = [torch.zeros_like(bias) for bias in biases]
        grad_scale: Any = (
            None if scale is None else torch.zeros_like(scale, dtype=torch.promote_types(scale.dtype, torch.float32))
        )
        with torch.autocast(grad_out.device.type, enabled=False):
            for i, piece in enumerate(ctx.pieces):
                q, k, v = kept[i]
                grad_rows = piece.by_head(grad_out[:, None])[0].contiguous()
                grads, grad_bias = _backward_of_windows(q, k, v, grad_rows, biases[piece.group])
                grad_biases[piece.group] += grad_bias
                if scale is None:
                    grads[0].mul_(q.shape[-1] ** -0.5)
                else:
                    inverse = kept[len(ctx.pieces) + i]
                    grads[0], along = normalize_query_key_backward_(grads[0], q, inverse[0], scale.view(-1, 1, 1))
                    grads[1], _ = normalize_query_key_backward_(grads[1], k, inverse[1], 1.0)
                    grad_scale += along.sum(dim=(0, 2, 3))
                for target, grad in zip(piece.by_head(grad_qkv), grads):
                    target.copy_(grad)
        return grad_qkv, None, None if scale is None else grad_scale.to(scale.dtype), None, *grad_biases


def _backward_of_windows(q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor, bias: Tensor) -> tuple[list[Tensor], Tensor]:
    """q and k (windows, heads, N, d), scaled, and the output's gradient -> those of q, k, v, and of the bias (heads, N, N).

    With P = softmax(S), O = P v it is dS = P dP - P D, dP = dO v', D = sum_j P_j dP_j. FlashAttention's D, the product of an
    output and its gradient, is cheaper, but does not come from the very weights that it must cancel: in 16 bits the scale's
    gradient would be ten times as far off.
    """
    weights = _weights(q, k, bias)
    grad_v = weights.to(v.dtype).transpose(-2, -1) @ grad_out
    grad_scores = (grad_out @ v.transpose(-2, -1)).to(weights.dtype)
    # PyTorch's own backward pass of softmax: D is summed and subtracted while a row is in the registers.
    torch.ops.aten._softmax_backward_data.out(grad_scores, weights, -1, weights.dtype, grad_input=grad_scores)
    grad_bias = grad_scores.sum(dim=0)
    grad_scores = grad_scores.to(q.dtype)
    return [grad_scores @ k, grad_scores.transpose(-2, -1) @ q, grad_v], grad_bias
