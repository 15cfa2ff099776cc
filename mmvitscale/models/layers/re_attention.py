"""Re-attention: attention maps mixed over heads and normalised (DeepViT, arXiv 2103.11886, section 4.2), and the plain
attention it is compared with.

Official form, A_g = softmax(q_g k_g' / sqrt(d)): S_h = sum_g W_hg A_g + c_h, Y = BatchNorm over heads of S,
out_h = scale * Y_h v_h. It needs several (heads, N, N) maps. BatchNorm is affine once its statistics are known, and both
follow from small sums. Rows of A_g sum to 1, so with the centred maps A'_g = A_g - 1/N and w_h = sum_g W_hg,
mean(S_h) = w_h / N + c_h and var(S_h) = sum_gk W_hg W_hk C_gk, where C_gk = mean(A'_g A'_k) is a heads x heads matrix. With
M_h = (sum_g W_hg A'_g) v_h the output is scale * (a_h M_h + b_h sum_j v_h[j]), a_h = gamma_h / sqrt(var_h + eps),
b_h = a_h (w_h / N + c_h - mean_h) + beta_h. Centring comes first everywhere: maps of thousands of tokens are almost
uniform, a_h is large, and what is common to all would drown the rest in float32.

So a kernel gives M_h and, where it is asked for, var_h of each image; ``eager`` from whole maps, ``sequential`` from chunks of
query rows, forward and backward. a_h and b_h, and how they carry over to another number of tokens than was trained with, are
``map_normalisation.py``'s.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from ...errors import InputError
from .map_normalisation import TokenLaw, Tokens, gain_and_offset, statistics_kept
from .precision import as_given

# Elements of one (B, heads, rows, N) chunk: a few of them fit into a processor's cache, and fill a GPU. Of fewer rows than
# _ROWS a processor's matrix products would be slow.
_CHUNK = {'cpu': 2**20, 'cuda': 2**25}
_ROWS = {'cpu': 32}


def _attend(q: Tensor, k: Tensor, scale: float, keys: Tensor | None = None) -> Tensor:
    """softmax(q k' scale), in float32 at least; zero at the tokens that are not among ``keys``, (B, N)."""
    scores = (q * scale) @ k.transpose(-2, -1)
    scores = scores if scores.dtype == torch.float64 else scores.float()
    if keys is not None:
        scores = scores.masked_fill(~keys[:, None, None], -torch.inf)
    return scores.softmax(dim=-1)


def _centred(maps: Tensor, keys: Tensor | None, out: Tensor | None = None) -> Tensor:
    """A' = A - 1 / N; zero at the tokens that are not among the keys, (B, N). out: where it is written to."""
    if keys is None:
        return torch.sub(maps, 1 / maps.shape[-1], out=out)
    return torch.sub(maps, 1 / _count(keys, maps.dtype).view(-1, 1, 1, 1), out=out).mul_(keys[:, None, None])


def _count(keys: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, N) bool -> (B,): N of each image."""
    return keys.sum(1, dtype=dtype)


def _mix(weight: Tensor, maps: Tensor, onto: Tensor | None = None) -> Tensor:
    """(H, G) or (B, H, G), (B, G, rows, N) -> (B, H, rows, N): sum_g W_hg A_g; added to ``onto``, in place, where that is
    given."""
    flat = maps.flatten(2)
    if onto is not None:
        onto.flatten(2).baddbmm_(weight.expand(len(maps), -1, -1), flat)
        return onto
    # As one product of matrices or a batch of them: a matrix times a batch would be turned round, and copied, first.
    mixed = torch.mm(weight, flat[0]) if len(maps) == 1 else torch.bmm(weight.expand(len(maps), -1, -1), flat)
    return mixed.view(maps.shape[0], weight.shape[-2], *maps.shape[2:])


def _precise(device: torch.device) -> torch.dtype:
    """The type of sums over millions of elements: float64, but for devices that have none (Apple's MPS)."""
    return torch.float32 if device.type == 'mps' else torch.float64


def _gram(a: Tensor, b: Tensor) -> Tensor:
    """(B, H, rows, N), (B, G, rows, N) -> (B, H, G), ``_precise``: sum of a_h b_g. A product per row, and the sum in that type:
    over millions of elements float32 would lose three digits."""
    return (a.transpose(1, 2) @ b.permute(0, 2, 3, 1)).sum(1, dtype=_precise(a.device))


def _add_product_(total: Tensor, maps: Tensor, rows: Tensor) -> None:
    """(B, H, N, d), in place, plus the maps (B, H, rows, N) transposed times (B, H, rows, d)."""
    total.flatten(0, 1).baddbmm_(maps.flatten(0, 1).transpose(1, 2), rows.flatten(0, 1))


class _MixedAttention(Function):
    """q, k, v (B, heads, N, d), W (heads, heads), keys (B, N) or None -> M_h = (sum_g W_hg A'_g) v_h, and C of each image (B,
    heads, heads), a chunk of rows at a time, forward and backward. C is zero unless ``with_moments``."""

    @staticmethod
    def forward(ctx, q, k, v, weight, keys, scale, rows, with_moments):
        ctx.save_for_backward(q, k, v, weight, keys)
        ctx.scale, ctx.rows, ctx.with_moments = scale, rows, with_moments
        batch, heads, tokens, _ = q.shape
        mixed_values = torch.empty_like(v)
        moments = torch.zeros(batch, heads, heads, dtype=_precise(q.device), device=q.device)
        for start in range(0, tokens, rows):
            part = slice(start, start + rows)
            maps = _attend(q[:, :, part], k, scale, keys)
            centred = _centred(maps, keys, out=maps)
            mixed_values[:, :, part] = _mix(weight.to(centred.dtype), centred).to(v.dtype) @ v
            if with_moments:
                moments += _gram(centred, _queries(centred, keys, part))
        return mixed_values, moments / _elements(tokens, keys, moments.dtype)

    @staticmethod
    def backward(ctx, grad_values, grad_moments):
        q, k, v, weight, keys = ctx.saved_tensors
        scale, rows = ctx.scale, ctx.rows
        tokens = q.shape[2]
        grad_q = torch.empty_like(q)
        grad_k, grad_v = (torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (k, v))
        grad_weight = torch.zeros_like(weight, dtype=_precise(weight.device))
        symmetric = (grad_moments + grad_moments.mT) / _elements(tokens, keys, grad_moments.dtype)
        for start in range(0, tokens, rows):
            part = slice(start, start + rows)
            maps = _attend(q[:, :, part], k, scale, keys)
            grad_rows = grad_values[:, :, part]
            grad_mixed = (grad_rows @ v.transpose(-2, -1)).to(maps.dtype)
            centred = _centred(maps, keys)
            _add_product_(grad_v, _mix(weight.to(maps.dtype), centred).to(v.dtype), grad_rows)
            grad_weight += _gram(grad_mixed, centred).sum(0)
            grad_maps = _mix(weight.T.to(maps.dtype), grad_mixed)
            if ctx.with_moments:
                _mix(symmetric.to(maps.dtype), _queries(centred, keys, part), onto=grad_maps)
            grad_maps -= (grad_maps * maps).sum(-1, keepdim=True)
            grad_scores = grad_maps.mul_(maps).to(q.dtype)
            grad_q[:, :, part] = grad_scores @ k
            _add_product_(grad_k, grad_scores, q[:, :, part] * scale)
        grad_q.mul_(scale)
        return grad_q, grad_k, grad_v, grad_weight.to(weight.dtype), None, None, None, None


def _queries(maps: Tensor, keys: Tensor | None, part: slice) -> Tensor:
    """Rows of maps, zero for the queries that are not among the keys."""
    return maps if keys is None else maps * keys[:, None, part, None]


def _inside(maps: Tensor, keys: Tensor | None, part: slice) -> Tensor:
    """Rows of maps, zero for queries and keys that are not there."""
    return maps if keys is None else _queries(maps, keys, part) * keys[:, None, None]


def _elements(tokens: int, keys: Tensor | None, dtype: torch.dtype) -> Tokens:
    """N^2, or (B, 1, 1) of it."""
    return tokens**2 if keys is None else _count(keys, dtype).view(-1, 1, 1) ** 2


# Query rows of the maps of an attention: a slice -> (B, heads, rows, N), in the graph of the forward pass. Made when asked
# for, so that a loss of the maps need not hold them.
MapRows = Callable[[slice], Tensor]
# M_h, the variance of S' of each image (B, heads) or None, and rows of S'.
Mixed = tuple[Tensor, Tensor | None, MapRows]


def rows_at_a_time(q: Tensor) -> int:
    """Query rows of a chunk of maps, for q (B, heads, N, d)."""
    batch, heads, tokens, _ = q.shape
    return max(_ROWS.get(q.device.type, 1), _CHUNK.get(q.device.type, _CHUNK['cuda']) // (batch * heads * tokens))


def _eager(
    q: Tensor, k: Tensor, v: Tensor, weight: Tensor, keys: Tensor | None, scale: float, attn_drop: float, with_variance: bool
) -> Mixed:
    """From whole maps. The reference."""
    maps = F.dropout(_attend(q, k, scale, keys), attn_drop)
    tokens = maps.shape[-1] if keys is None else _count(keys, maps.dtype).view(-1, 1, 1, 1)
    centred = maps - 1 / tokens if keys is None else (maps - 1 / tokens) * keys[:, None, None]
    mixed = _mix(weight.to(maps.dtype), centred)
    whole = slice(None)
    count = _count(keys if keys is not None else maps.new_ones(len(maps), maps.shape[-1], dtype=torch.bool), maps.dtype)
    if attn_drop:  # rows no longer sum to 1
        mean = _queries(mixed, keys, whole).sum((0, 2, 3)) / count.square().sum()
        mixed = mixed - mean.view(-1, 1, 1)
        mixed = mixed if keys is None else mixed * keys[:, None, None]
    var = _queries(mixed, keys, whole).square().sum((2, 3)) / count[:, None] ** 2 if with_variance else None
    return mixed.to(v.dtype) @ v, var, lambda part: mixed[:, :, part]


def _sequential(
    q: Tensor, k: Tensor, v: Tensor, weight: Tensor, keys: Tensor | None, scale: float, attn_drop: float, with_variance: bool
) -> Mixed:
    """Without the maps; see the head of this file."""
    return sequential_re_attention(q, k, v, weight, keys, scale, with_variance, rows_at_a_time(q))


def sequential_re_attention(
    q: Tensor, k: Tensor, v: Tensor, weight: Tensor, keys: Tensor | None, scale: float, with_variance: bool, rows: int
) -> Mixed:
    """q, k, v: (B, heads, N, d), W (heads, heads), keys (B, N) or None for all -> M_h (B, heads, N, d), the variance of S' and
    what makes rows of S'; ``rows`` query rows at a time."""
    k, q = k.to(v.dtype), q.to(v.dtype)
    values, moments = _MixedAttention.apply(q, k, v, weight, keys, scale, rows, with_variance)
    wide = torch.promote_types(weight.dtype, torch.float32)
    var = torch.einsum('hg,hk,bgk->bh', weight.to(wide), weight.to(wide), moments.to(wide)) if with_variance else None

    def map_rows(part: slice) -> Tensor:
        with as_given(q.device):
            return _mix(weight, _centred(_attend(q[:, :, part], k, scale, keys), keys).to(weight.dtype))

    return values, var, map_rows


def _auto(
    q: Tensor, k: Tensor, v: Tensor, weight: Tensor, keys: Tensor | None, scale: float, attn_drop: float, with_variance: bool
) -> Mixed:
    """Sequential, but eager where dropout needs the maps, and in a TorchScript trace, in which MMEngine counts multiply-adds
    and which takes no functions of ours."""
    kernel = _eager if attn_drop or torch.jit.is_tracing() else _sequential
    return kernel(q, k, v, weight, keys, scale, attn_drop, with_variance)


KERNELS: dict[str, Callable[..., Mixed]] = {'auto': _auto, 'eager': _eager, 'sequential': _sequential}


class ReAttention(nn.Module):
    """(B, N, C) -> (B, N, C): self-attention whose maps are mixed over heads and normalised before they meet v.

    Args:
        dim: C.
        num_heads: heads; C is a multiple of it.
        transform_scale: multiply the normalised maps by head_dim ** -0.5 once more, as deepvit-s does.
        kernel: a key of KERNELS. All give the same result.
        attn_drop: dropout of the maps before they are mixed. The sequential kernel refuses it.
        statistics: how the maps are normalised at another number of tokens than was trained with, one of STATISTICS
            (map_normalisation.py).
        image_share: with ``image``, the share of the image's own variance.
        reference_tokens: N that the statistics are kept for.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        transform_scale: bool = False,
        kernel: str = 'auto',
        attn_drop: float = 0.0,
        statistics: str = 'carried',
        image_share: float = 1.0,
        reference_tokens: int = 1,
    ):
        super().__init__()
        head_dim = _head_dim(dim, num_heads)
        if kernel == 'sequential' and attn_drop:
            raise InputError(
                f'attn_drop_rate {attn_drop} found with attention sequential, whose statistics hold for '
                'maps without dropout; use attention auto or eager, or no attention dropout'
            )
        self.num_heads = num_heads
        self.scale = head_dim**-0.5
        self.out_scale = self.scale if transform_scale else 1.0
        self.kernel = kernel
        self.attn_drop = attn_drop
        self.statistics = statistics
        self.image_share = image_share
        self.qkv = nn.Linear(dim, 3 * dim)
        self.reatten_matrix = nn.Conv2d(num_heads, num_heads, 1)
        self.var_norm = nn.BatchNorm2d(num_heads)
        self.token_law = TokenLaw(num_heads, reference_tokens)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        """keys: (B, N), the tokens that there are; those of padding are neither attended to nor counted. None: all."""
        return self.forward_with_maps(x, keys)[0]

    def forward_with_maps(self, x: Tensor, keys: Tensor | None = None) -> tuple[Tensor, int, MapRows]:
        """(B, N, C) -> (B, N, C), a fitting number of rows to ask for at a time, and what makes rows of the maps that met
        v."""
        q, k, v = _heads(self.qkv(x), self.num_heads)
        out, map_rows = self._attend(KERNELS[self.kernel], q, k, v, keys)
        return self.proj(out.transpose(1, 2).flatten(2)), rows_at_a_time(q), map_rows

    def _attend(
        self, kernel: Callable[..., Mixed], q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, MapRows]:
        """q, k, v -> (B, heads, N, d), and rows of the maps."""
        weight = self.reatten_matrix.weight.flatten(1)
        with as_given(q.device):
            values, var, mixed_rows = kernel(
                q,
                k,
                v,
                weight,
                keys,
                self.scale,
                self.attn_drop if self.training else 0.0,
                self.var_norm.training or self.statistics == 'image',
            )
            wide = torch.promote_types(weight.dtype, torch.float32)
            tokens: Tokens = int(q.shape[2]) if keys is None else _count(keys, wide)
            gain, offset = (
                part.view(-1, self.num_heads, 1, 1)
                for part in gain_and_offset(
                    self.var_norm,
                    self.token_law,
                    weight.to(wide),
                    self.reatten_matrix.bias,
                    var,
                    tokens,
                    self.statistics,
                    self.image_share,
                )
            )
            summed = v if keys is None else v * keys[:, None, :, None]
            out = gain * values + offset * summed.sum(dim=2, keepdim=True)
        if self.var_norm.training and self.statistics == 'running' and self.var_norm.momentum != 0:
            self.token_law.reference = int(q.shape[2])

        def map_rows(part: slice) -> Tensor:
            return _inside(self.out_scale * (gain * mixed_rows(part) + offset), keys, part)

        return (self.out_scale * out).to(v.dtype), map_rows

    def map_variance(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        """(B, N, C) -> (B, heads): the variance of each image's mixed maps before they are normalised."""
        q, k, v = _heads(self.qkv(x), self.num_heads)
        weight = self.reatten_matrix.weight.flatten(1)
        with as_given(q.device):
            _, var, _ = KERNELS[self.kernel](q, k, v, weight, keys, self.scale, 0.0, True)
        assert var is not None
        return var

    def attention_maps(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        """(B, N, C) -> (B, heads, N, N): the maps that meet v, for looking at; a row is a query. Running statistics stay as
        they are."""
        q, k, v = _heads(self.qkv(x), self.num_heads)
        with statistics_kept(self):
            return self._attend(_eager, q, k, v, keys)[1](slice(None))


class SelfAttention(nn.Module):
    """(B, N, C) -> (B, N, C): plain multi-head self-attention, the baseline. Arguments as ReAttention's."""

    def __init__(self, dim: int, num_heads: int, attn_drop: float = 0.0):
        super().__init__()
        self.num_heads = num_heads
        self.scale = _head_dim(dim, num_heads) ** -0.5
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        """keys: as ReAttention's."""
        return self.forward_with_maps(x, keys)[0]

    def forward_with_maps(self, x: Tensor, keys: Tensor | None = None) -> tuple[Tensor, int, MapRows]:
        """As ReAttention's; the maps are those before dropout."""
        q, k, v = _heads(self.qkv(x), self.num_heads)
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=None if keys is None else keys[:, None, None], dropout_p=self.attn_drop if self.training else 0.0
        )
        out = self.proj(out.transpose(1, 2).flatten(2))
        return out, rows_at_a_time(q), lambda part: _inside(_attend(q[:, :, part], k, self.scale, keys), keys, part)

    def attention_maps(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        """(B, N, C) -> (B, heads, N, N): softmax(q k' / sqrt(d)), for looking at; a row is a query."""
        q, k, _ = _heads(self.qkv(x), self.num_heads)
        return _inside(_attend(q, k, self.scale, keys), keys, slice(None))


def _head_dim(dim: int, num_heads: int) -> int:
    if dim % num_heads:
        raise InputError(
            f'{dim} channels cannot be split over {num_heads} heads evenly; choose num_heads that divide embed_dims'
        )
    return dim // num_heads


def _heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, N, 3 C) -> q, k, v, each (B, heads, N, d)."""
    batch, tokens, _ = qkv.shape
    return qkv.view(batch, tokens, 3, num_heads, -1).permute(2, 0, 3, 1, 4).unbind()
