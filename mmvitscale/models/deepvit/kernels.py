"""Kernels of Re-attention: sequential, without attention maps, and the choice between it and eager.

The official form needs several (heads, N, N) maps. The statistics of its BatchNorm follow from small sums instead: rows of A_g
sum to 1, so with A'_g = A_g - 1/N and w_h = sum_g W_hg, mean(S_h) = w_h / N + c_h and var(S_h) = sum_gk W_hg W_hk C_gk, where
C_gk = mean(A'_g A'_k) is a heads x heads matrix. ``sequential`` goes over chunks of query rows and sums M_h and C; its backward
pass recomputes the chunks.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from mmvitscale.models.deepvit.re_attention import (
    KERNELS,
    Mixed,
    attention_weights,
    centre_maps,
    eager,
    mask_queries,
    mix_heads,
    rows_at_a_time,
    token_count,
)
from mmvitscale.models.deepvit.re_attention_norm import Tokens
from mmvitscale.models.layers.autocast import no_autocast
from mmvitscale.models.layers.transforms import once, takes_no_functions


def sequential(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weight: Tensor,
    token_mask: Tensor | None,
    scale: float,
    attn_drop: float,
    with_variance: bool,
) -> Mixed:
    """A Kernel: without attention maps; eager where no custom autograd function can be."""
    if takes_no_functions():
        return eager(q, k, v, weight, token_mask, scale, 0.0, with_variance)
    return sequential_in_chunks(q, k, v, weight, token_mask, scale, with_variance, rows_at_a_time(q))


def sequential_in_chunks(
    q: Tensor, k: Tensor, v: Tensor, weight: Tensor, token_mask: Tensor | None, scale: float, with_variance: bool, rows: int
) -> Mixed:
    """q, k, v: (B, heads, N, d), W (heads, heads), token_mask (B, N) or None for all -> M_h (B, heads, N, d), the variance of
    S' and what makes rows of S'; ``rows`` query rows at a time."""
    k, q = k.to(v.dtype), q.to(v.dtype)
    values, moments = _MixedAttention.apply(q, k, v, weight, token_mask, scale, rows, with_variance)
    wide = torch.promote_types(weight.dtype, torch.float32)
    var = torch.einsum('hg,hk,bgk->bh', weight.to(wide), weight.to(wide), moments.to(wide)) if with_variance else None

    def map_rows(part: slice) -> Tensor:
        with no_autocast(q.device):
            return mix_heads(
                weight, centre_maps(attention_weights(q[:, :, part], k, scale, token_mask), token_mask).to(weight.dtype)
            )

    return values, var, map_rows


def auto(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weight: Tensor,
    token_mask: Tensor | None,
    scale: float,
    attn_drop: float,
    with_variance: bool,
) -> Mixed:
    """A Kernel: sequential, but eager where dropout needs the maps."""
    kernel = eager if attn_drop else sequential
    return kernel(q, k, v, weight, token_mask, scale, attn_drop, with_variance)


KERNELS.update(auto=auto, sequential=sequential)


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


def _elements(tokens: int, token_mask: Tensor | None, dtype: torch.dtype) -> Tokens:
    """N^2, or (B, 1, 1) of it."""
    return tokens**2 if token_mask is None else token_count(token_mask, dtype).view(-1, 1, 1) ** 2


class _MixedAttention(Function):
    """q, k, v (B, heads, N, d), W (heads, heads), token_mask (B, N) or None -> M_h = (sum_g W_hg A'_g) v_h, and C of each image
    (B, heads, heads), a chunk of rows at a time, forward and backward. C is zero unless ``with_moments``."""

    @staticmethod
    def forward(
        ctx: Any, q: Any, k: Any, v: Any, weight: Any, token_mask: Any, scale: Any, rows: Any, with_moments: Any
    ) -> Any:
        ctx.save_for_backward(q, k, v, weight, token_mask)
        ctx.scale, ctx.rows, ctx.with_moments = scale, rows, with_moments
        batch, heads, tokens, _ = q.shape
        mixed_values = torch.empty_like(v)
        moments = torch.zeros(batch, heads, heads, dtype=_precise(q.device), device=q.device)
        for start in range(0, tokens, rows):
            part = slice(start, start + rows)
            maps = attention_weights(q[:, :, part], k, scale, token_mask)
            centred = centre_maps(maps, token_mask, out=maps)
            mixed_values[:, :, part] = mix_heads(weight.to(centred.dtype), centred).to(v.dtype) @ v
            if with_moments:
                moments += _gram(centred, mask_queries(centred, token_mask, part))
        return mixed_values, moments / _elements(tokens, token_mask, moments.dtype)

    @staticmethod
    def backward(ctx: Any, grad_values: Any, grad_moments: Any) -> Any:
        saved = ctx.saved_tensors  # once: checkpointing gives them no second time
        with torch.no_grad(), no_autocast(grad_values.device):
            grads = _MixedAttention.gradients(ctx, saved, grad_values, grad_moments)
        return (*once(grads, [grad_values, grad_moments, *saved[:4]]), None, None, None, None)

    @staticmethod
    def gradients(ctx: Any, saved: Any, grad_values: Any, grad_moments: Any) -> Any:
        """Of q, k, v and W."""
        q, k, v, weight, token_mask = saved
        scale, rows = ctx.scale, ctx.rows
        tokens = q.shape[2]
        grad_q = torch.empty_like(q)
        grad_k, grad_v = (torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (k, v))
        grad_weight = torch.zeros_like(weight, dtype=_precise(weight.device))
        symmetric = (grad_moments + grad_moments.mT) / _elements(tokens, token_mask, grad_moments.dtype)
        for start in range(0, tokens, rows):
            part = slice(start, start + rows)
            maps = attention_weights(q[:, :, part], k, scale, token_mask)
            grad_rows = grad_values[:, :, part]
            grad_mixed = (grad_rows @ v.transpose(-2, -1)).to(maps.dtype)
            centred = centre_maps(maps, token_mask)
            _add_product_(grad_v, mix_heads(weight.to(maps.dtype), centred).to(v.dtype), grad_rows)
            grad_weight += _gram(grad_mixed, centred).sum(0)
            grad_maps = mix_heads(weight.T.to(maps.dtype), grad_mixed)
            if ctx.with_moments:
                mix_heads(symmetric.to(maps.dtype), mask_queries(centred, token_mask, part), onto=grad_maps)
            grad_maps -= (grad_maps * maps).sum(-1, keepdim=True)
            grad_scores = grad_maps.mul_(maps).to(q.dtype)
            grad_q[:, :, part] = grad_scores @ k
            _add_product_(grad_k, grad_scores, q[:, :, part] * scale)
        grad_q.mul_(scale)
        return grad_q, grad_k, grad_v, grad_weight.to(weight.dtype)
