"""Learned absolute position embedding of a token grid, and its resize."""

import torch
from torch import Tensor

from mmvitscale.models.layers.autocast import no_autocast

Grid = tuple[int, int]


def resize_position_embedding(embedding: Tensor, grid: Grid, new_grid: Grid) -> Tensor:
    """(1, 1 + h w, C) of a grid (h, w) behind a class token -> (1, 1 + h' w', C) of another, bicubically, with antialiasing
    where a side shrinks; the class token's stays."""
    if grid == new_grid:
        return embedding
    class_token, tokens = embedding[:, :1], embedding[:, 1:]
    maps = tokens.transpose(1, 2).unflatten(2, grid)
    # F.interpolate(antialias=True) of PyTorch 2.13.0 gives wrong numbers for a contiguous map that becomes one column wide.
    wide = torch.promote_types(embedding.dtype, torch.float32)
    grows = int(new_grid[0] >= grid[0] and new_grid[1] >= grid[1])
    rows, columns = (
        cubic_weights(torch.arange(side, device=maps.device, dtype=wide), cells, grows) for side, cells in zip(new_grid, grid)
    )
    with no_autocast(maps.device):
        maps = rows @ maps.to(wide) @ columns.T
    maps = maps.to(embedding.dtype)
    return torch.cat((class_token, maps.flatten(2).transpose(1, 2)), dim=1)


def cubic_weights(places: Tensor, cells: int, grows: int) -> Tensor:
    """(n,) float, 0 to n - 1, and a side of the grid -> (n, cells), what each place takes of each cell when PyTorch
    resizes bicubically: with antialiasing, or, where ``grows`` is 1, without."""
    scale = cells / (places[-1:] + 1)
    centre = (places + 0.5) * scale
    cell = torch.arange(cells, device=places.device, dtype=places.dtype)
    wide = _cubic((cell + 0.5 - centre[:, None]) / scale.clamp_min(1), -0.5)
    first = (centre - 0.5).floor()
    taps = first[:, None] + torch.arange(-1, 3, device=places.device, dtype=places.dtype)
    share = _cubic(taps - (centre - 0.5)[:, None], -0.75)
    narrow = (share[..., None] * (taps.clamp(0, cells - 1)[..., None] == cell).to(share.dtype)).sum(1)
    return grows * narrow + (1 - grows) * (wide / wide.sum(1, keepdim=True))


def _cubic(x: Tensor, a: float) -> Tensor:
    """The cubic convolution kernel (Keys 1981)."""
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
