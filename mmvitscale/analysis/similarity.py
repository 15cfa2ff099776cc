"""How alike the attention maps of different blocks are (DeepViT, arXiv 2103.11886, section 3.1)."""

from typing import Sequence

import torch.nn.functional as F
from torch import Tensor, stack


def cross_layer_similarity(maps: Sequence[Tensor]) -> Tensor:
    """L maps of (B, heads, N, N) -> (L, L): M(p, q), the cosine of A^p_(h, :, t) and A^q_(h, :, t), averaged over
    images, heads h and tokens t (eq. 3)."""
    columns = [F.normalize(block.double(), dim=-2) for block in maps]
    return stack([stack([(p * q).sum(-2).mean() for q in columns]) for p in columns])


def similar_blocks(similarity: Tensor, threshold: float = 0.9) -> int:
    """(L, L) -> how many blocks are more than ``threshold`` alike to the block before them."""
    return int((similarity.diagonal(offset=1) > threshold).sum())


def mean_similarity(similarity: Tensor) -> float:
    """(L, L) -> the average over pairs of different blocks."""
    count = len(similarity)
    return ((similarity.sum() - similarity.diagonal().sum()) / (count * (count - 1))).item()
