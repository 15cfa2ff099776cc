"""Re-attention: attention maps mixed over heads and normalised (DeepViT, arXiv 2103.11886, section 4.2), and the plain
attention it is compared with.

Official form, A_g = softmax(q_g k_g' / sqrt(d)): S_h = sum_g W_hg A_g + c_h, Y = BatchNorm over heads of S,
out_h = scale * Y_h v_h. ``eager`` does just that and holds several (heads, N, N) maps. ``sequential`` never does: it
walks over chunks of query rows. BatchNorm is affine once its statistics are known, and both follow from small sums.
Rows of A_g sum to 1, so with the centred maps A'_g = A_g - 1/N and w_h = sum_g W_hg, mean(S_h) = w_h / N + c_h and
var(S_h) = sum_gk W_hg W_hk C_gk, where C_gk = mean(A'_g A'_k) is a heads x heads matrix. With
M_h = (sum_g W_hg A'_g) v_h the output is scale * (a_h M_h + b_h sum_j v_h[j]), a_h = gamma_h / sqrt(var_h + eps),
b_h = a_h (w_h / N + c_h - mean_h) + beta_h. Centring comes first everywhere: maps of thousands of tokens are almost
uniform, a_h is large, and what is common to all would drown the rest in float32.
"""

from typing import Callable, Dict, Optional, Tuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.distributed.nn.functional import all_reduce

from ...errors import InputError
from .sync_batch_norm import SyncBatchNorm

# Elements of one (B, heads, rows, N) chunk: a few of them fit into a processor's cache, and fill a GPU. Of fewer rows than
# _ROWS a processor's matrix products would be slow.
_CHUNK = {'cpu': 2**20, 'cuda': 2**25}
_ROWS = {'cpu': 32}


def _attend(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """softmax(q k' scale), in float32 at least."""
    scores = (q * scale) @ k.transpose(-2, -1)
    return (scores if scores.dtype == torch.float64 else scores.float()).softmax(dim=-1)


def _mix(weight: Tensor, maps: Tensor, onto: Optional[Tensor] = None) -> Tensor:
    """(H, G), (B, G, rows, N) -> (B, H, rows, N): sum_g W_hg A_g; added to ``onto``, in place, where that is given."""
    flat = maps.flatten(2)
    if onto is not None:
        onto.flatten(2).baddbmm_(weight.expand(len(maps), -1, -1), flat)
        return onto
    # As one product of matrices or a batch of them: a matrix times a batch would be turned round, and copied, first.
    mixed = torch.mm(weight, flat[0]) if len(maps) == 1 else torch.bmm(weight.expand(len(maps), -1, -1), flat)
    return mixed.view(maps.shape[0], weight.shape[0], *maps.shape[2:])


def _precise(device: torch.device) -> torch.dtype:
    """The type of sums over millions of elements: float64, but for devices that have none (Apple's MPS)."""
    return torch.float32 if device.type == 'mps' else torch.float64


def _gram(a: Tensor, b: Tensor) -> Tensor:
    """(B, H, rows, N), (B, G, rows, N) -> (H, G), ``_precise``: sum of a_h b_g. A product per row, and the sum in that type:
    over millions of elements float32 would lose three digits."""
    return (a.transpose(1, 2) @ b.permute(0, 2, 3, 1)).sum((0, 1), dtype=_precise(a.device))


def _add_product_(total: Tensor, maps: Tensor, rows: Tensor) -> None:
    """(B, H, N, d), in place, plus the maps (B, H, rows, N) transposed times (B, H, rows, d)."""
    total.flatten(0, 1).baddbmm_(maps.flatten(0, 1).transpose(1, 2), rows.flatten(0, 1))


class _MixedAttention(Function):
    """q, k, v (B, heads, N, d), W (heads, heads) -> M_h = (sum_g W_hg A'_g) v_h and C (heads, heads), a chunk of rows at
    a time, forward and backward. C is zero unless ``with_moments``."""

    @staticmethod
    def forward(ctx, q, k, v, weight, scale, rows, with_moments):
        ctx.save_for_backward(q, k, v, weight)
        ctx.scale, ctx.rows, ctx.with_moments = scale, rows, with_moments
        batch, heads, tokens, _ = q.shape
        mixed_values = torch.empty_like(v)
        moments = torch.zeros(heads, heads, dtype=_precise(q.device), device=q.device)
        for start in range(0, tokens, rows):
            part = slice(start, start + rows)
            centred = _attend(q[:, :, part], k, scale).sub_(1 / tokens)
            mixed_values[:, :, part] = _mix(weight.to(centred.dtype), centred).to(v.dtype) @ v
            if with_moments:
                moments += _gram(centred, centred)
        return mixed_values, (moments / (batch * tokens**2)).to(weight.dtype)

    @staticmethod
    def backward(ctx, grad_values, grad_moments):
        q, k, v, weight = ctx.saved_tensors
        scale, rows = ctx.scale, ctx.rows
        batch, _, tokens, _ = q.shape
        grad_q = torch.empty_like(q)
        grad_k, grad_v = (torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (k, v))
        grad_weight = torch.zeros_like(weight, dtype=_precise(weight.device))
        symmetric = (grad_moments + grad_moments.T) / (batch * tokens**2)
        for start in range(0, tokens, rows):
            part = slice(start, start + rows)
            maps = _attend(q[:, :, part], k, scale)
            grad_rows = grad_values[:, :, part]
            grad_mixed = (grad_rows @ v.transpose(-2, -1)).to(maps.dtype)
            centred = maps - 1 / tokens
            _add_product_(grad_v, _mix(weight.to(maps.dtype), centred).to(v.dtype), grad_rows)
            grad_weight += _gram(grad_mixed, centred)
            grad_maps = _mix(weight.T.to(maps.dtype), grad_mixed)
            if ctx.with_moments:
                _mix(symmetric.to(maps.dtype), centred, onto=grad_maps)
            grad_maps -= (grad_maps * maps).sum(-1, keepdim=True)
            grad_scores = grad_maps.mul_(maps).to(q.dtype)
            grad_q[:, :, part] = grad_scores @ k
            _add_product_(grad_k, grad_scores, q[:, :, part] * scale)
        grad_q.mul_(scale)
        return grad_q, grad_k, grad_v, grad_weight.to(weight.dtype), None, None, None


# Query rows of the maps of an attention: a slice -> (B, heads, rows, N), in the graph of the forward pass. Made when asked
# for, so that a loss of the maps need not hold them.
MapRows = Callable[[slice], Tensor]


def _eager(q: Tensor, k: Tensor, v: Tensor, mix: nn.Conv2d, norm: nn.Module, scale: float, out_scale: float,
           attn_drop: float) -> Tuple[Tensor, MapRows]:
    """The official form. The reference."""
    mixed = mix(F.dropout(_attend(q, k, scale), attn_drop))
    before = [norm.running_mean.clone(), norm.running_var.clone()] if norm.training else []
    maps = norm(mixed) * out_scale
    if before:  # as in _batch_statistics; the graph has seen the buffers
        finite = torch.isfinite(norm.running_var)
        for running, kept in zip((norm.running_mean, norm.running_var), before):
            running.data.copy_(torch.where(finite, running, kept))
    return maps.to(v.dtype) @ v, lambda part: maps[:, :, part]


def rows_at_a_time(q: Tensor) -> int:
    """Query rows of a chunk of maps, for q (B, heads, N, d)."""
    batch, heads, tokens, _ = q.shape
    return max(_ROWS.get(q.device.type, 1), _CHUNK.get(q.device.type, _CHUNK['cuda']) // (batch * heads * tokens))


def _sequential(q: Tensor, k: Tensor, v: Tensor, mix: nn.Conv2d, norm: nn.Module, scale: float, out_scale: float,
                attn_drop: float) -> Tuple[Tensor, MapRows]:
    """The same without the maps; see the head of this file."""
    return sequential_re_attention(q, k, v, mix, norm, scale, out_scale, rows_at_a_time(q))


def sequential_re_attention(q: Tensor, k: Tensor, v: Tensor, mix: nn.Conv2d, norm: nn.Module, scale: float,
                            out_scale: float, rows: int) -> Tuple[Tensor, MapRows]:
    """q, k, v: (B, heads, N, d) -> (B, heads, N, d), ``rows`` query rows at a time, and what makes rows of the maps.

    mix: 1x1 convolution over heads. norm: BatchNorm2d or SyncBatchNorm over heads, whose running statistics are
    updated in training as its own forward would.
    """
    weight = mix.weight.flatten(1)
    with torch.autocast(q.device.type, enabled=False):
        k, q = k.to(v.dtype), q.to(v.dtype)
        values, moments = _MixedAttention.apply(q, k, v, weight, scale, rows, norm.training)
        if norm.training:
            mean_map, var = _batch_statistics(weight, moments, q.shape[0], q.shape[2], norm, mix.bias)
            # The bias shifts mean and maps alike, so it cancels; it stays in the graph for its (zero) gradient.
            shift = weight.sum(1) * (1 / q.shape[2] - mean_map) + 0 * mix.bias
        else:
            var, shift = norm.running_var, weight.sum(1) / q.shape[2] + mix.bias - norm.running_mean
        a = norm.weight * (var + norm.eps).rsqrt()
        b = a * shift + norm.bias
        out = a.view(-1, 1, 1) * values + b.view(-1, 1, 1) * v.sum(dim=2, keepdim=True)

    def map_rows(part: slice) -> Tensor:
        with torch.autocast(q.device.type, enabled=False):
            centred = _attend(q[:, :, part], k, scale) - 1 / q.shape[2]
            return out_scale * (a.view(-1, 1, 1) * _mix(weight, centred.to(weight.dtype)) + b.view(-1, 1, 1))

    return (out_scale * out).to(v.dtype), map_rows


def _batch_statistics(weight: Tensor, moments: Tensor, batch: int, tokens: int, norm: nn.Module,
                      bias: Tensor) -> Tuple[float, Tensor]:
    """Mean of the plain maps, and biased variance of the mixed ones per head, over all processes if the norm is
    synchronised; updates the running statistics."""
    count, mean_map = float(batch * tokens**2), 1 / tokens
    synchronised = isinstance(norm, (nn.SyncBatchNorm, SyncBatchNorm)) and dist.is_initialized()
    if synchronised and dist.get_world_size(norm.process_group) > 1:
        # Maps of another process may have another N, so another mean: moments about the common one.
        sums = moments.new_tensor([count, count * mean_map])
        dist.all_reduce(sums, group=norm.process_group)
        common = (sums[1] / sums[0]).item()
        moments = count * (moments + (mean_map - common)**2)
        moments = all_reduce(moments, group=norm.process_group or dist.group.WORLD) / sums[0]
        count, mean_map = sums[0].item(), common
    if count == 1:
        raise InputError('Re-attention cannot normalise a single value in training (one image, one token); use larger '
                         'images or evaluation mode')
    var = torch.einsum('hg,hk,gk->h', weight, weight, moments)
    with torch.no_grad():
        norm.num_batches_tracked += 1
        momentum = 1 / norm.num_batches_tracked.item() if norm.momentum is None else norm.momentum
        for running, of_batch in ((norm.running_mean, weight.sum(1) * mean_map + bias),
                                  (norm.running_var, var * count / (count - 1))):
            # One batch that is not finite must not spoil all that follows.
            running.copy_(torch.where(torch.isfinite(var), running.lerp(of_batch.to(running.dtype), momentum), running))
    return mean_map, var


def _auto(q: Tensor, k: Tensor, v: Tensor, mix: nn.Conv2d, norm: nn.Module, scale: float, out_scale: float,
          attn_drop: float) -> Tuple[Tensor, MapRows]:
    """Sequential, but eager where dropout needs the maps, and in a TorchScript trace, in which MMEngine counts multiply-adds
    and which takes no functions of ours."""
    return (_eager if attn_drop or torch.jit.is_tracing() else _sequential)(q, k, v, mix, norm, scale, out_scale, attn_drop)


KERNELS: Dict[str, Callable[..., Tuple[Tensor, MapRows]]] = {'auto': _auto, 'eager': _eager, 'sequential': _sequential}


class ReAttention(nn.Module):
    """(B, N, C) -> (B, N, C): self-attention whose maps are mixed over heads and normalised before they meet v.

    Args:
        dim: C.
        num_heads: heads; C is a multiple of it.
        transform_scale: multiply the normalised maps by head_dim ** -0.5 once more, as deepvit-s does.
        kernel: a key of KERNELS. All give the same result.
        attn_drop: dropout of the maps before they are mixed. The sequential kernel refuses it.
    """

    def __init__(self, dim: int, num_heads: int, transform_scale: bool = False, kernel: str = 'auto',
                 attn_drop: float = 0.0):
        super().__init__()
        head_dim = _head_dim(dim, num_heads)
        if kernel == 'sequential' and attn_drop:
            raise InputError(f'attn_drop_rate {attn_drop} found with attention sequential, whose statistics hold for '
                             'maps without dropout; use attention auto or eager, or no attention dropout')
        self.num_heads = num_heads
        self.scale = head_dim**-0.5
        self.out_scale = self.scale if transform_scale else 1.0
        self.kernel = kernel
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim)
        self.reatten_matrix = nn.Conv2d(num_heads, num_heads, 1)
        self.var_norm = nn.BatchNorm2d(num_heads)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_with_maps(x)[0]

    def forward_with_maps(self, x: Tensor) -> Tuple[Tensor, int, MapRows]:
        """(B, N, C) -> (B, N, C), a fitting number of rows to ask for at a time, and what makes rows of the maps that met
        v."""
        q, k, v = _heads(self.qkv(x), self.num_heads)
        out, map_rows = KERNELS[self.kernel](q, k, v, self.reatten_matrix, self.var_norm, self.scale, self.out_scale,
                                             self.attn_drop if self.training else 0.0)
        return self.proj(out.transpose(1, 2).flatten(2)), rows_at_a_time(q), map_rows

    def attention_maps(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, heads, N, N): the maps that meet v, for looking at; a row is a query. Running statistics stay as
        they are."""
        q, k, _ = _heads(self.qkv(x), self.num_heads)
        with statistics_kept(self.var_norm):
            return self.var_norm(self.reatten_matrix(_attend(q, k, self.scale))) * self.out_scale


class SelfAttention(nn.Module):
    """(B, N, C) -> (B, N, C): plain multi-head self-attention, the baseline. Arguments as ReAttention's."""

    def __init__(self, dim: int, num_heads: int, attn_drop: float = 0.0):
        super().__init__()
        self.num_heads = num_heads
        self.scale = _head_dim(dim, num_heads)**-0.5
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_with_maps(x)[0]

    def forward_with_maps(self, x: Tensor) -> Tuple[Tensor, int, MapRows]:
        """As ReAttention's; the maps are those before dropout."""
        q, k, v = _heads(self.qkv(x), self.num_heads)
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=self.attn_drop if self.training else 0.0)
        out = self.proj(out.transpose(1, 2).flatten(2))
        return out, rows_at_a_time(q), lambda part: _attend(q[:, :, part], k, self.scale)

    def attention_maps(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, heads, N, N): softmax(q k' / sqrt(d)), for looking at; a row is a query."""
        q, k, _ = _heads(self.qkv(x), self.num_heads)
        return _attend(q, k, self.scale)


def _head_dim(dim: int, num_heads: int) -> int:
    if dim % num_heads:
        raise InputError(f'{dim} channels cannot be split over {num_heads} heads evenly; choose num_heads that divide '
                         'embed_dims')
    return dim // num_heads


def _heads(qkv: Tensor, num_heads: int) -> Tuple[Tensor, Tensor, Tensor]:
    """(B, N, 3 C) -> q, k, v, each (B, heads, N, d)."""
    batch, tokens, _ = qkv.shape
    return qkv.view(batch, tokens, 3, num_heads, -1).permute(2, 0, 3, 1, 4).unbind()


class statistics_kept:
    """Within it a forward pass leaves the running statistics of every BatchNorm in the module as they are: for the second
    forward pass of activation checkpointing, which sees the same batch again. May be entered again, once for every
    backward pass through the same graph."""

    def __init__(self, module: nn.Module):
        self.norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    def __enter__(self):
        self.before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in self.norms]
        for norm in self.norms:
            norm.momentum = 0.0

    def __exit__(self, *error):
        for norm, (momentum, batches) in zip(self.norms, self.before):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)
