"""Learned absolute position embedding of a token grid, and its resize."""

from typing import Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = Tuple[int, int]


def resize_position_embedding(embedding: Tensor, grid: Grid, new_grid: Grid) -> Tensor:
    """(1, 1 + h w, C) of a grid (h, w) behind a class token -> (1, 1 + h' w', C) of another, bicubically; the class
    token's stays."""
    if grid == new_grid:
        return embedding
    class_token, tokens = embedding[:, :1], embedding[:, 1:]
    maps = tokens.transpose(1, 2).unflatten(2, grid)
    maps = F.interpolate(maps.float(), size=new_grid, mode='bicubic', align_corners=False).to(embedding.dtype)
    return torch.cat((class_token, maps.flatten(2).transpose(1, 2)), dim=1)
