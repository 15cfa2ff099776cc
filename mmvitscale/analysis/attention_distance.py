"""How far blocks look: the mean distance between a query and what it attends to."""

import torch
from torch import Tensor

from mmvitscale.analysis.recorder import AttentionMaps


def attention_distance(maps: AttentionMaps) -> list[float]:
    """For each head the distance, in tokens, between queries and keys, averaged with the weights of attention (as in
    Dosovitskiy et al., arXiv 2010.11929, figure 7).

    Re-attention's maps are no distributions: their absolute values, divided by their sum, are the weights. The class token
    has no place and is left out.
    """
    total, count = torch.zeros(0), 0
    for window, group in zip(maps.windows, maps.groups):
        weights = group[:, :, 1:, 1:] if maps.class_token else group
        weights = weights.abs() / weights.abs().sum(-1, keepdim=True).clamp_min(1e-12)
        summed = (weights * _distances(*window)).sum((0, 2, 3))  # (heads,)
        total = summed if not count else total + summed
        count += weights.shape[0] * weights.shape[2]
    return (total / max(count, 1)).tolist()


def _distances(height: int, width: int) -> Tensor:
    """(N, N) between the tokens of a window."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    places = torch.stack((y, x), dim=-1).flatten(0, 1).float()
    return torch.cdist(places, places)
