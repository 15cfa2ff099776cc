"""Attention similarity, and with it attention collapse: how similar the attention maps, features and heads of blocks are
(DeepViT, arXiv 2103.11886, section 3.1)."""

from collections.abc import Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Maps: TypeAlias = Tensor | Sequence[Tensor]  # (B, heads, N, N), or (windows, heads, N, N) for the windows of each shape


def _columns(maps: Maps) -> Sequence[Tensor]:
    """Every column of every map, of length 1."""
    return [F.normalize(group.double(), dim=-2) for group in ([maps] if isinstance(maps, Tensor) else maps)]


def _mean_cosine(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """The mean over all columns; NaN for maps of other windows, between which there is none."""
    if [group.shape for group in one] != [group.shape for group in other]:
        return torch.tensor(float('nan'), dtype=torch.float64)
    cosines = [(p * q).sum(-2).flatten() for p, q in zip(one, other)]
    return torch.cat(cosines).mean()


def cross_layer_similarity(maps: Sequence[Maps]) -> Tensor:
    """Maps of L blocks -> (L, L): M(p, q), the cosine of A^p_(h, :, t) and A^q_(h, :, t), averaged over images, windows,
    heads h and tokens t (eq. 3). NaN for two blocks whose windows or heads differ, as those of different stages do and, in a
    SwinV2, shifted and unshifted ones."""
    columns = [_columns(block) for block in maps]
    similarity = torch.empty(len(maps), len(maps), dtype=torch.float64)
    for p, one in enumerate(columns):
        for q, other in enumerate(columns[: p + 1]):
            similarity[p, q] = similarity[q, p] = _mean_cosine(one, other)
    return similarity


def similarity_to_before(similarity: Tensor) -> Tensor:
    """(L, L) -> (L,): how similar each block is to the last one before it that it can be compared with; NaN where there is
    none."""
    found = torch.full((len(similarity),), float('nan'), dtype=similarity.dtype)
    for block, row in enumerate(similarity):
        comparable = (~row[:block].isnan()).nonzero().flatten()
        if len(comparable):
            found[block] = row[comparable[-1]]
    return found


def collapsed_blocks(similarity: Tensor, threshold: float = 0.9) -> int:
    """(L, L) -> how many blocks are more similar than ``threshold`` to the block before them (attention collapse)."""
    return int((similarity_to_before(similarity) > threshold).sum())


def mean_similarity(similarity: Tensor) -> float:
    """(L, L) -> the average over pairs of different blocks that can be compared."""
    different = ~torch.eye(len(similarity), dtype=torch.bool)
    return similarity[different].nanmean().item()


class NeighbourSimilarity:
    """Blocks one after the other -> how similar each is to the last one before it that it can be compared with, as
    ``similarity_to_before``, from no more maps than two blocks of each shape of windows."""

    def __init__(self):
        self._last = {}

    def add(self, maps: Maps) -> float | None:
        """None for a block that nothing before it can be compared with."""
        columns = _columns(maps)
        before = self._last.get(key := tuple(group.shape for group in columns))
        self._last[key] = columns
        return None if before is None else _mean_cosine(columns, before).item()


def feature_similarity(features: Sequence[Tensor]) -> Tensor:
    """What L blocks return, (B, N, C) each -> (L, L): the cosine of a token's features after two blocks, averaged over
    images and tokens. NaN for blocks of different stages."""
    tokens = [F.normalize(block.double(), dim=-1) for block in features]
    similarity = torch.full((len(tokens), len(tokens)), float('nan'), dtype=torch.float64)
    for p, one in enumerate(tokens):
        for q, other in enumerate(tokens[: p + 1]):
            if one.shape == other.shape:
                similarity[p, q] = similarity[q, p] = (one * other).sum(-1).mean()
    return similarity


def similarity_to_last(similarity: Tensor) -> Tensor:
    """(L, L) of features -> (L,): how similar what each block returns is to what the last of its stage returns."""
    last = [int((~row.isnan()).nonzero()[-1]) for row in similarity]
    return torch.stack([row[i] for row, i in zip(similarity, last)])


def head_diversity(maps: Maps) -> float | None:
    """Maps of a block -> 1 minus the cosine of A_(g, :, t) and A_(h, :, t), averaged over images, windows, tokens t and
    pairs
    of different heads g, h: 0 where all heads attend to the same tokens. None for a single head."""
    total, count = 0.0, 0
    for columns in _columns(maps):
        windows, heads, _, tokens = columns.shape
        if heads < 2:
            return None
        # The sum over pairs is that of the squared length of the sum of all heads, less those of each head with itself.
        summed = columns.sum(1).square().sum() - columns.square().sum()
        total, count = total + summed.item(), count + windows * tokens * heads * (heads - 1)
    return 1 - total / count
