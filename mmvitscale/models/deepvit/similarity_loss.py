"""The regulariser of DeepViT's 32-block model against attention collapse: the mean cosine similarity of the attention maps of
neighbouring blocks, without storing maps, and added to the loss whatever head computes that."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

from mmvitscale.models.deepvit.re_attention import MapRows

_EPS = 1e-12


def neighbour_similarity(one: MapRows, other: MapRows, tokens: int, rows: int, token_mask: Tensor | None = None) -> Tensor:
    """The cosine of A_(h, :, t) and B_(h, :, t), averaged over images, heads h and tokens t (DeepViT, arXiv 2103.11886, eq.
    3, for two blocks).

    A column is a sum over query rows, so chunks of rows add up three sums a column; each chunk is made again in the
    backward pass.

    Args:
        one, other: what makes rows of the maps of a block, (B, heads, rows, N).
        tokens: N.
        rows: rows at a time.
        token_mask: (B, N), True for tokens, False for padding, where maps are zero. None for all.
    """
    sums: Tensor = 0
    for start in range(0, tokens, rows):
        sums = sums + checkpoint(_column_sums, one, other, slice(start, start + rows), use_reentrant=False)
    product, square, other_square = sums
    cosines = product * (square * other_square).clamp_min(_EPS**2).rsqrt()  # (B, heads, N)
    return cosines.mean() if token_mask is None else (cosines.mean(1) * token_mask).sum() / token_mask.sum()


def _column_sums(one: MapRows, other: MapRows, part: slice) -> Tensor:
    """(3, B, heads, N): sums over these rows of A B, A A and B B."""
    a, b = one(part), other(part)
    return torch.stack([(a * b).sum(-2), a.square().sum(-2), b.square().sum(-2)])


class _WithLoss(Function):
    @staticmethod
    def forward(ctx: Any, x: Any, loss: Any, weight: Any, gradient_scale: Any) -> Any:
        ctx.weight, ctx.gradient_scale = weight, gradient_scale
        ctx.save_for_backward(loss)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        (loss,) = ctx.saved_tensors
        return grad, torch.full_like(loss, ctx.weight * ctx.gradient_scale()), None, None


def with_loss(x: Tensor, loss: Tensor, weight: float, gradient_scale: Callable[[], float]) -> Tensor:
    """x, unchanged; but where its gradient is computed, ``weight * loss`` is learned from, too, as if it were part of the
    loss that x leads to. gradient_scale: what a training loop multiplies its loss with before the backward pass (the scale
    of mixed precision, one over the number of batches of gradient accumulation)."""
    return _WithLoss.apply(x, loss, weight, gradient_scale)
