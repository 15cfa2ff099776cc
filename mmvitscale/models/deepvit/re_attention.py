"""Re-attention: attention maps mixed over heads and normalised (DeepViT, arXiv 2103.11886, section 4.2): the eager formula and
the module; and the plain attention it is compared with.

Official form, A_g = softmax(q_g k_g' / sqrt(d)): S_h = sum_g W_hg A_g + c_h, Y = BatchNorm over heads of S,
out_h = scale * Y_h v_h. BatchNorm is affine once its statistics are known, so with the centred maps A'_g = A_g - 1/N and
M_h = (sum_g W_hg A'_g) v_h the output is scale * (a_h M_h + b_h sum_j v_h[j]). A kernel gives M_h and, where it is required,
the variance of the mixed maps of each image; ``eager`` from whole maps, ``kernels.sequential`` without them. The gain a_h and
the offset b_h, also at another number of tokens than was trained with, are ``re_attention_norm.py``'s. Maps are centred first
everywhere: those of thousands of tokens are almost uniform, a_h is large, and what is common to all would drown the rest in
float32.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvitscale.errors import InputError
from mmvitscale.models.deepvit.re_attention_norm import (
    Tokens,
    VariancePowerLaw,
    frozen_statistics,
    gain_and_offset,
    normalises_batch,
)
from mmvitscale.models.layers.attachments import is_plain, matrix_and_bias
from mmvitscale.models.layers.autocast import no_autocast
from mmvitscale.models.layers.transforms import in_functorch

# Elements of one (B, heads, rows, N) chunk: a few of them fit into a CPU's cache, and fill a GPU. With fewer rows than
# _ROWS a CPU's matrix products would be slow.
_CHUNK = {'cpu': 2**20, 'cuda': 2**25}
_ROWS = {'cpu': 32}

# Query rows of the maps of an attention: a slice -> (B, heads, rows, N), in the graph of the forward pass. Computed when they
# are called for, so that a loss of the maps need not store them.
MapRows = Callable[[slice], Tensor]
# M_h, the variance of S' of each image (B, heads) or None, and rows of S'.
Mixed = tuple[Tensor, Tensor | None, MapRows]
# q, k, v (B, heads, N, d), W (heads, heads), the mask of tokens (B, N) or None, the scale of logits, the dropout of maps,
# whether the variance is required -> Mixed. All kernels give the same result.
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None, float, float, bool], Mixed]


def attention_weights(q: Tensor, k: Tensor, scale: float, token_mask: Tensor | None = None) -> Tensor:
    """softmax(q k' scale), in float32 at least; zero at the tokens outside ``token_mask``, (B, N)."""
    scores = (q * scale) @ k.transpose(-2, -1)
    scores = scores if scores.dtype == torch.float64 else scores.float()
    if token_mask is not None:
        scores = scores.masked_fill(~token_mask[:, None, None], -torch.inf)
    return scores.softmax(dim=-1)


def centre_maps(maps: Tensor, token_mask: Tensor | None, out: Tensor | None = None) -> Tensor:
    """A' = A - 1 / N; zero at the tokens outside ``token_mask``, (B, N). out: where it is written to."""
    if token_mask is None:
        return torch.sub(maps, 1 / maps.shape[-1], out=out)
    return torch.sub(maps, 1 / token_count(token_mask, maps.dtype).view(-1, 1, 1, 1), out=out).mul_(token_mask[:, None, None])


def token_count(token_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, N) bool -> (B,): N of each image."""
    return token_mask.sum(1, dtype=dtype)


def mix_heads(weight: Tensor, maps: Tensor, onto: Tensor | None = None) -> Tensor:
    """(H, G) or (B, H, G), (B, G, rows, N) -> (B, H, rows, N): sum_g W_hg A_g; added to ``onto``, in place, where that is
    given."""
    flat = maps.flatten(2)
    if onto is not None:
        onto.flatten(2).baddbmm_(weight.expand(len(maps), -1, -1), flat)
        return onto
    # As one product of matrices or a batch of them: a matrix times a batch would be turned round, and copied, first.
    mixed = torch.mm(weight, flat[0]) if len(maps) == 1 else torch.bmm(weight.expand(len(maps), -1, -1), flat)
    return mixed.view(maps.shape[0], weight.shape[-2], *maps.shape[2:])


def mask_queries(maps: Tensor, token_mask: Tensor | None, part: slice) -> Tensor:
    """Rows of maps, zero for the queries outside the mask."""
    return maps if token_mask is None else maps * token_mask[:, None, part, None]


def mask_maps(maps: Tensor, token_mask: Tensor | None, part: slice) -> Tensor:
    """Rows of maps, zero for queries and keys outside the mask."""
    return maps if token_mask is None else mask_queries(maps, token_mask, part) * token_mask[:, None, None]


def rows_at_a_time(q: Tensor) -> int:
    """Query rows of a chunk of maps, for q (B, heads, N, d)."""
    batch, heads, tokens, _ = q.shape
    return max(_ROWS.get(q.device.type, 1), _CHUNK.get(q.device.type, _CHUNK['cuda']) // max(batch * heads * tokens, 1))


def eager(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weight: Tensor,
    token_mask: Tensor | None,
    scale: float,
    attn_drop: float,
    with_variance: bool,
) -> Mixed:
    """A Kernel: the formula as it stands, from whole maps, which all others are compared with."""
    maps = F.dropout(attention_weights(q, k, scale, token_mask), attn_drop)
    tokens = maps.shape[-1] if token_mask is None else token_count(token_mask, maps.dtype).view(-1, 1, 1, 1)
    centred = maps - 1 / tokens if token_mask is None else (maps - 1 / tokens) * token_mask[:, None, None]
    mixed = mix_heads(weight.to(maps.dtype), centred)
    whole = slice(None)
    mask = maps.new_ones(len(maps), maps.shape[-1], dtype=torch.bool) if token_mask is None else token_mask
    count = token_count(mask, maps.dtype)
    if attn_drop:  # rows no longer sum to 1
        mean = mask_queries(mixed, token_mask, whole).sum((0, 2, 3)) / count.square().sum()
        mixed = mixed - mean.view(-1, 1, 1)
        mixed = mixed if token_mask is None else mixed * token_mask[:, None, None]
    var = mask_queries(mixed, token_mask, whole).square().sum((2, 3)) / count[:, None] ** 2 if with_variance else None
    return mixed.to(v.dtype) @ v, var, lambda part: mixed[:, :, part]


# By name; ``kernels.py`` adds auto and sequential.
KERNELS: dict[str, Kernel] = {'eager': eager}


class ReAttention(nn.Module):
    """(B, N, C) -> (B, N, C): self-attention whose maps are mixed over heads and normalised before they are multiplied with v.

    No kernel but ``eager`` makes whole maps, so ``reatten_matrix`` and ``var_norm`` are not called with them: their weights are
    read, or, where an adapter, pruning or a hook is attached, taken from a call with a matrix of ones and zeros. The maps
    themselves are ``attention_maps``.

    Args:
        dim: C.
        num_heads: heads; C is a multiple of it.
        transform_scale: multiply the normalised maps by head_dim ** -0.5 once more, as deepvit-s does.
        kernel: a key of KERNELS. All give the same result.
        attn_drop: dropout of the maps before they are mixed. The sequential kernel refuses it.
        statistics: how the maps are normalised at another number of tokens than was trained with, one of STATISTICS
            (re_attention_norm.py).
        image_share: with ``image``, the share of the image's own variance.
        trained_tokens: N that the statistics are of.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        transform_scale: bool = False,
        kernel: str = 'auto',
        attn_drop: float = 0.0,
        statistics: str = 'token_invariant',
        image_share: float = 1.0,
        trained_tokens: int = 1,
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
        self.token_law = VariancePowerLaw(num_heads, trained_tokens)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, token_mask: Tensor | None = None) -> Tensor:
        """token_mask: (B, N), True for tokens, False for padding, which is neither attended to nor counted. None: all."""
        return self.forward_with_maps(x, token_mask)[0]

    def forward_with_maps(self, x: Tensor, token_mask: Tensor | None = None) -> tuple[Tensor, int, MapRows]:
        """(B, N, C) -> (B, N, C), a fitting number of rows to compute at a time, and what computes rows of the
        maps that were multiplied with v."""
        q, k, v = _heads(self.qkv(x), self.num_heads)
        out, map_rows = self._normalised(KERNELS[self.kernel], q, k, v, token_mask)
        return self.proj(out.transpose(1, 2).flatten(2)), rows_at_a_time(q), map_rows

    def _normalised(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, token_mask: Tensor | None) -> tuple[Tensor, MapRows]:
        """q, k, v -> (B, heads, N, d), and rows of the maps."""
        weight, bias = self.mixing()
        with no_autocast(q.device):
            values, var, mixed_rows = kernel(
                q,
                k,
                v,
                weight,
                token_mask,
                self.scale,
                self.attn_drop if self.training else 0.0,
                normalises_batch(self.var_norm) or self.statistics == 'image',
            )
            wide = torch.promote_types(weight.dtype, torch.float32)
            tokens: Tokens = int(q.shape[2]) if token_mask is None else token_count(token_mask, wide)
            gain, offset = (
                part.view(-1, self.num_heads, 1, 1)
                for part in gain_and_offset(
                    self.var_norm,
                    self.token_law,
                    weight.to(wide),
                    bias,
                    var,
                    tokens,
                    self.statistics,
                    self.image_share,
                )
            )
            summed = v if token_mask is None else v * token_mask[:, None, :, None]
            # Of many tokens the sum is beyond what float16 holds.
            out = gain * values + offset * summed.sum(dim=2, keepdim=True, dtype=torch.promote_types(v.dtype, torch.float32))
        if normalises_batch(self.var_norm) and self.statistics == 'running' and self.var_norm.momentum != 0 and len(q):
            self.token_law.trained_tokens = int(q.shape[2])

        def map_rows(part: slice) -> Tensor:
            return mask_maps(self.out_scale * (gain * mixed_rows(part) + offset), token_mask, part)

        return (self.out_scale * out).to(v.dtype), map_rows

    def mixing(self) -> tuple[Tensor, Tensor]:
        """W (heads, heads) and c (heads,) of the 1x1 convolution over heads, with whatever is attached to it."""
        if is_plain(self.reatten_matrix, nn.Conv2d):
            return self.reatten_matrix.weight.flatten(1), self.reatten_matrix.bias
        return matrix_and_bias(self.reatten_matrix, self.num_heads)

    def map_variance(self, x: Tensor, token_mask: Tensor | None = None) -> Tensor:
        """(B, N, C) -> (B, heads): the variance of each image's mixed maps before they are normalised."""
        q, k, v = _heads(self.qkv(x), self.num_heads)
        weight, _ = self.mixing()
        with no_autocast(q.device):
            _, var, _ = KERNELS[self.kernel](q, k, v, weight, token_mask, self.scale, 0.0, True)
        assert var is not None
        return var

    def attention_maps(self, x: Tensor, token_mask: Tensor | None = None) -> Tensor:
        """(B, N, C) -> (B, heads, N, N): the maps that are multiplied with v, for analysis; a row is a query. Running
        statistics stay as they are."""
        q, k, v = _heads(self.qkv(x), self.num_heads)
        with frozen_statistics(self):
            return self._normalised(eager, q, k, v, token_mask)[1](slice(None))


class SelfAttention(nn.Module):
    """(B, N, C) -> (B, N, C): plain multi-head self-attention, the baseline. Arguments as ReAttention's; every kernel but eager
    is PyTorch's ``scaled_dot_product_attention``."""

    def __init__(self, dim: int, num_heads: int, attn_drop: float = 0.0, kernel: str = 'auto'):
        super().__init__()
        self.num_heads = num_heads
        self.scale = _head_dim(dim, num_heads) ** -0.5
        self.attn_drop = attn_drop
        self.kernel = kernel
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, token_mask: Tensor | None = None) -> Tensor:
        """token_mask: as ReAttention's."""
        return self.forward_with_maps(x, token_mask)[0]

    def forward_with_maps(self, x: Tensor, token_mask: Tensor | None = None) -> tuple[Tensor, int, MapRows]:
        """As ReAttention's; the maps are those before dropout."""
        q, k, v = _heads(self.qkv(x), self.num_heads)
        dropout = self.attn_drop if self.training else 0.0
        if self.kernel == 'eager' or in_functorch():  # PyTorch's has no forward-mode and no second derivatives
            with no_autocast(q.device):
                maps = attention_weights(q, k, self.scale, token_mask)
                out = F.dropout(maps, dropout).to(v.dtype) @ v
        else:
            out = F.scaled_dot_product_attention(
                q, k, v, attn_mask=None if token_mask is None else token_mask[:, None, None], dropout_p=dropout
            )

        def map_rows(part: slice) -> Tensor:
            return mask_maps(attention_weights(q[:, :, part], k, self.scale, token_mask), token_mask, part)

        return self.proj(out.transpose(1, 2).flatten(2)), rows_at_a_time(q), map_rows

    def attention_maps(self, x: Tensor, token_mask: Tensor | None = None) -> Tensor:
        """(B, N, C) -> (B, heads, N, N): softmax(q k' / sqrt(d)), for analysis; a row is a query."""
        q, k, _ = _heads(self.qkv(x), self.num_heads)
        return mask_maps(attention_weights(q, k, self.scale, token_mask), token_mask, slice(None))


def _head_dim(dim: int, num_heads: int) -> int:
    if dim % num_heads:
        raise InputError(
            f'{dim} channels cannot be split over {num_heads} heads evenly; choose num_heads that divide embed_dims'
        )
    return dim // num_heads


def _heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, N, 3 C) -> q, k, v, each (B, heads, N, d)."""
    batch, tokens, channels = qkv.shape
    return qkv.view(batch, tokens, 3, num_heads, channels // (3 * num_heads)).permute(2, 0, 3, 1, 4).unbind()
