"""The cross-entropy of resized logits, without the resized logits.

Decode heads resize logits to the size of the labels before their loss (FCN, arXiv 1411.4038; UPerNet, arXiv 1807.10221):
150 classes at 512 x 512 are 157 MB an image in float32, and the resized logits, their logarithms of probabilities and the
gradients of both each go through memory. Here some rows at a time are resized, taken through softmax and back to the logits'
own resolution while they lie in the cache; the gradients are computed with the loss, for they are known but for a factor.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from mmvitscale.models.layers.interpolation import (
    interpolation_bands,
    interpolation_matrix,
    resize_columns,
    resize_columns_adjoint,
)
from mmvitscale.models.layers.transforms import may_cache, takes_no_functions

# Values of resized logits at a time: for each thread of a CPU what lies in its cache together with their probabilities, and
# on a GPU enough to fill it.
_VALUES_OF_A_THREAD, _VALUES_ON_A_GPU = 2**19, 2**25
# With fewer classes the resized logits are small, and reductions along the classes of a pixel fill no vector register.
_MANY_CLASSES = 16


class ResizedCrossEntropy(NamedTuple):
    """loss: () sum of the pixels' losses; correct: () pixels whose label has the highest logit."""

    loss: Tensor
    correct: Tensor


def cross_entropy_of_resized(
    logits: Tensor, label: Tensor, align_corners: bool, ignore_index: int, class_weight: Tensor | None = None
) -> ResizedCrossEntropy:
    """What ``torch.nn.functional.cross_entropy`` gives for bilinearly resized logits, summed over all pixels.

    Args:
        logits: (B, C, h, w) of two classes or more.
        label: (B, H, W) of integers from 0 to C - 1, or ignore_index.
        align_corners: of the resizing, see ``torch.nn.functional.interpolate``.
        ignore_index: label of pixels that do not count.
        class_weight: (C,), of each pixel by its label.

    Computed in float32, in float64 for float64. Where several classes have the highest logit, the label's counts as correct.

    Raises:
        IndexError: for a label without logits, on a CPU.
    """
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    class_weight = None if class_weight is None else class_weight.to(dtype)
    with torch.autocast(logits.device.type, enabled=False):
        in_pieces = logits.shape[1] >= _MANY_CLASSES and logits.numel() and label.numel() and label.dtype == torch.long
        if not in_pieces or takes_no_functions() or not may_cache():
            return ResizedCrossEntropy(*_plain(logits.to(dtype), label, align_corners, ignore_index, class_weight))
        _check_labels(label, ignore_index, logits.shape[1])
        wants_grad = logits.requires_grad and torch.is_grad_enabled()
        return ResizedCrossEntropy(
            *_InPieces.apply(logits.to(dtype), label, align_corners, ignore_index, class_weight, wants_grad)
        )


def _plain(
    logits: Tensor, label: Tensor, align_corners: bool, ignore_index: int, class_weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The definition."""
    x = F.interpolate(logits, tuple(label.shape[1:]), mode='bilinear', align_corners=align_corners)
    loss = F.cross_entropy(x, label, class_weight, ignore_index=ignore_index, reduction='sum')
    valid = label != ignore_index
    own = x.gather(1, label.masked_fill(~valid, 0).unsqueeze(1)).squeeze(1)
    return loss, ((own == x.amax(1)) & valid).sum()


def _check_labels(label: Tensor, ignore_index: int, classes: int) -> None:
    """As ``torch.nn.functional.cross_entropy`` does; on a GPU ``gather`` stops, as there, for it cannot be asked at once."""
    if label.device.type == 'cpu':
        wrong = label[((label < 0) | (label >= classes)) & (label != ignore_index)]
        if wrong.numel():
            raise IndexError(f'Target {int(wrong[0])} is out of bounds.')


class _InPieces(Function):
    """``_plain``, some rows of the resized logits at a time, with the gradient of the logits."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        label: Tensor,
        align_corners: bool,
        ignore_index: int,
        class_weight: Tensor | None,
        wants_grad: bool,
    ) -> tuple[Tensor, Tensor]:
        valid = label != ignore_index
        known = label.masked_fill(~valid, 0)
        weight = (torch.ones_like(known, dtype=logits.dtype) if class_weight is None else class_weight[known]) * valid
        resizing = _Resizing(logits, label, align_corners)
        losses, correct, grads = [], [], []
        for x, *of_image in zip(logits.permute(0, 2, 3, 1), known, valid, weight):
            columns = resizing.columns(x)  # (h, W, C)
            grad = torch.zeros_like(columns) if wants_grad else None
            for start, stop, first, last, matrix in resizing.rows:
                piece = (matrix @ columns[first:last].flatten(1)).view(-1, x.shape[2])
                pixels = [one[start:stop].flatten() for one in of_image]
                loss, hits, of_piece = _of_pixels(piece, pixels[0], pixels[1], pixels[2], wants_grad)
                losses.append(loss)
                correct.append(hits)
                if grad is not None:
                    grad[first:last].flatten(1).addmm_(matrix.t(), of_piece.view(stop - start, -1))
            grads += [] if grad is None else [resizing.columns_adjoint(grad)]
        ctx.align_corners, ctx.ignore_index = align_corners, ignore_index
        ctx.save_for_backward(logits, label, class_weight, torch.stack(grads).permute(0, 3, 1, 2) if grads else None)
        hits = torch.stack(correct).sum()
        ctx.mark_non_differentiable(hits)
        return torch.stack(losses).sum(), hits

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        logits, label, class_weight, found = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody wants second derivatives
            loss, _ = _plain(logits, label, ctx.align_corners, ctx.ignore_index, class_weight)
            return (*torch.autograd.grad(loss, logits, grad, create_graph=True), *[None] * 5)
        return found * grad, *[None] * 5


def _of_pixels(x: Tensor, label: Tensor, valid: Tensor, weight: Tensor, wants_grad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(n, C) logits of n pixels; (n,) labels, which of them count, and their weights -> the sum of the losses, the number of
    correct pixels, and (n, C) the gradient of the logits."""
    own, highest = x.gather(1, label[:, None])[:, 0], x.amax(1)
    # The logarithm of the sum of exponentials, by the highest probability, which is 1 / C at least: so no logarithms of all
    # probabilities are written, and none is taken of zero.
    probabilities = torch.softmax(x, 1)
    losses = ((highest - own - probabilities.amax(1).log()) * weight).masked_fill(~valid, 0)
    if wants_grad:
        probabilities.mul_(weight[:, None]).scatter_add_(1, label[:, None], -weight[:, None])
    return losses.sum(), ((own == highest) & valid).sum(), probabilities


class _Resizing:
    """How logits (B, C, h, w) become those of labels (B, H, W): columns first, all of an image, then rows, some at a time."""

    def __init__(self, logits: Tensor, label: Tensor, align_corners: bool):
        (height, width), (rows, columns) = label.shape[1:], logits.shape[2:]
        self.align_corners = align_corners
        self._columns = None if columns == width else self._matrix(columns, width, logits)
        values = _VALUES_OF_A_THREAD * torch.get_num_threads() if logits.device.type == 'cpu' else _VALUES_ON_A_GPU
        at_a_time = max(values // (width * logits.shape[1]), 1)
        self.rows = list(interpolation_bands(self._matrix(rows, height, logits), align_corners, at_a_time))

    def _matrix(self, before: int, after: int, like: Tensor) -> Tensor:
        return interpolation_matrix(before, after, self.align_corners, like.device).to(like.dtype)

    def columns(self, x: Tensor) -> Tensor:
        """(h, w, C) -> (h, W, C)."""
        return x.contiguous() if self._columns is None else resize_columns(x, self._columns, self.align_corners)

    def columns_adjoint(self, x: Tensor) -> Tensor:
        """(h, W, C) -> (h, w, C)."""
        return x if self._columns is None else resize_columns_adjoint(x, self._columns, self.align_corners)
