"""Kernels of window attention: fused, sequential, FlexAttention, and the choice among them.

Each computes what ``attention.eager`` does, gradients included, in less time or memory. They work on pieces: some windows at a
time, whose attention weights fit into a CPU's cache, or fill a GPU.
"""

from collections.abc import Sequence
from typing import Any

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
        return _fused_inference(qkv, scale, biases, groups)[0]
    q, k, v = qkv.unbind(1)
    q, k = scaled_query_key(q, k, scale)
    # In pieces, for a GPU's kernel makes the bias's gradient for every window before it sums them.
    pieces, indices = _pieces(groups, qkv)
    with torch.autocast(v.device.type, enabled=False):
        biases = [biases[i] for i in indices]
        return attend_by_group(_dot_product_attention, q.to(v.dtype), k.to(v.dtype), v, biases, pieces)


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


def normalize_query_key_(qkv: Tensor, scale: Tensor | None) -> Tensor | None:
    """``scaled_query_key`` for q and k of qkv (T, 3, heads, d), in place. With a scale it returns one over their lengths,
    (T, 2, heads, 1) float32 or float64, zero where there is none."""
    qk = qkv[:, :2]
    if scale is None:
        qk[:, 0].mul_(qkv.shape[-1] ** -0.5)
        return None
    scales = torch.stack((scale, torch.ones_like(scale)))[:, :, None]  # of queries and keys of length one
    inverse = qk.new_empty(*qk.shape[:3], 1, dtype=torch.promote_types(scale.dtype, torch.float32))
    # Operations on two types make copies, several times slower than one copy that stays in the cache.
    rows = len(qk) if qk.dtype == inverse.dtype or qk.device.type != 'cpu' else max(_CHUNK['cpu'] // qk.shape[1:].numel(), 1)
    for part, into in zip(qk.split(rows), inverse.split(rows)):
        precise = part.to(inverse.dtype)
        lengths = torch.linalg.vector_norm(precise, dim=-1, keepdim=True)
        into.copy_(lengths.clamp_min(MIN_LENGTH).reciprocal_().mul_(lengths > MIN_LENGTH))
        precise.mul_(into * scales)
        if precise is not part:
            part.copy_(precise)
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


def _windows_at_a_time(device: torch.device, heads: int, slots: int, dim: int) -> int:
    limit = _CHUNK['cuda'] if torch.compiler.is_compiling() else _CHUNK.get(device.type, _CHUNK['cuda'])
    return max(limit // (heads * slots * max(slots, 2 * dim)), 1)


def _pieces(groups: Sequence[WindowGroup], qkv: Tensor) -> tuple[list[WindowGroup], list[int]]:
    """The groups cut into pieces of at most _CHUNK, in the same order, and for each the index of its group."""
    heads, dim = qkv.shape[2:]
    pieces, indices = [], []
    for index, group in enumerate(groups):
        step = _windows_at_a_time(qkv.device, heads, group.slots, dim)
        for first in range(0, max(group.count, 1), step):  # a batch may be empty
            pieces.append(WindowGroup(group.window, min(step, group.count - first)))
            indices.append(index)
    return pieces, indices


def _dot_product_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    # Biases reach 16, where bfloat16 resolves 0.06; a GPU's kernel takes no other type than that of q.
    mask = bias if q.device.type == 'cpu' else bias.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[None], scale=1.0)


@torch.no_grad()
def _fused_inference(
    qkv: Tensor, scale: Tensor | None, biases: Sequence[Tensor], groups: Sequence[WindowGroup]
) -> tuple[Tensor, Tensor | None]:
    """``fused`` without a gradient; overwrites qkv, and returns what ``normalize_query_key_`` does, too."""

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        # In 16 bits only the fused kernel has its scores in float32.
        small = q.device.type == 'cpu' and q.shape[2] <= _SMALL_WINDOW and q.dtype in (torch.float32, torch.float64)
        # Detached, for PyTorch chooses its slow form wherever a bias could need a gradient.
        return (_attend_in_pieces if small else _dot_product_attention)(q, k, v, bias.detach())

    with torch.autocast(qkv.device.type, enabled=False):
        inverse = normalize_query_key_(qkv, scale)
        q, k, v = qkv.unbind(1)
        return attend_by_group(attend, q, k, v, biases, groups), inverse


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
    """The forward pass is the fused one, and the backward recomputes the attention weights of some windows at a time.

    What is stored is qkv with q and k normalised in place: nobody else needs it, least of all the linear layer that made it.
    ``source``, nothing of it, leads to where it came from for ``once``.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Any, source: Any, scale: Any, groups: Any, *biases: Any) -> Any:
        out, inverse = _fused_inference(qkv.detach(), None if scale is None else scale.detach(), biases, groups)
        ctx.save_for_backward(qkv.detach(), inverse, scale, source, *biases)
        ctx.groups = groups
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Any) -> Any:
        qkv, inverse, *sources = ctx.saved_tensors  # once: checkpointing gives them no second time
        with torch.no_grad():
            grads = _Sequential.gradients(ctx, grad_out, qkv, inverse, *sources)
        return once(grads, [grad_out, *sources])

    @staticmethod
    def gradients(ctx: Any, grad_out: Any, qkv: Any, inverse: Any, scale: Any, source: Any, *biases: Any) -> Any:
        """Of each argument of ``forward``."""
        grad_qkv = torch.empty_like(qkv)
        grad_biases = [torch.zeros_like(bias) for bias in biases]
        grad_scale: Any = None if scale is None else torch.zeros_like(scale, dtype=inverse.dtype)
        start = 0
        with torch.autocast(qkv.device.type, enabled=False):
            for piece, index in zip(*_pieces(ctx.groups, qkv)):
                rows = slice(start, start + piece.tokens)
                q, k, v = _by_head(qkv[rows], piece).contiguous()
                grad_rows = _by_head(grad_out[rows, None], piece)[0].contiguous()
                grads, grad_bias = _backward_of_windows(q, k, v, grad_rows, biases[index])
                grad_biases[index] += grad_bias
                if scale is None:
                    grads[0].mul_(q.shape[-1] ** -0.5)
                else:
                    lengths = _by_head(inverse[rows], piece)
                    grads[0], along = normalize_query_key_backward_(grads[0], q, lengths[0], scale.view(-1, 1, 1))
                    grads[1], _ = normalize_query_key_backward_(grads[1], k, lengths[1], 1.0)
                    grad_scale += along.sum(dim=(0, 2, 3))
                for target, grad in zip(_by_head(grad_qkv[rows], piece), grads):
                    target.copy_(grad)
                start = rows.stop
        return grad_qkv, None, None if scale is None else grad_scale.to(scale.dtype), None, *grad_biases


def _by_head(x: Tensor, piece: WindowGroup) -> Tensor:
    """(tokens of a piece, n, heads, d) -> (n, windows, heads, N, d)."""
    return x.unflatten(0, (piece.count, piece.slots)).permute(2, 0, 3, 1, 4)


def _backward_of_windows(q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor, bias: Tensor) -> tuple[list[Tensor], Tensor]:
    """q and k (windows, heads, N, d), scaled, and the output's gradient -> those of q, k, v, and of the bias (heads, N, N).

    With P = softmax(S), O = P v it is dS = P dP - P D, dP = dO v', D = sum_j P_j dP_j. FlashAttention's D, the product of an
    output and its gradient, is cheaper, but does not come from the very weights that it must cancel: in 16 bits the scale's
    gradient would be ten times as far off.
    """
    weights = _weights(q, k, bias)
    grad_v = weights.to(v.dtype).transpose(-2, -1) @ grad_out
    grad_scores = (grad_out @ v.transpose(-2, -1)).to(weights.dtype).mul_(weights)
    grad_scores.addcmul_(weights, grad_scores.sum(dim=-1, keepdim=True), value=-1)
    grad_bias = grad_scores.sum(dim=0)
    grad_scores = grad_scores.to(q.dtype)
    return [grad_scores @ k, grad_scores.transpose(-2, -1) @ q, grad_v], grad_bias
