"""Position biases as constants: a file to run has no use for the MLP that they come from."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmvitscale.models.swin_v2.position_bias import expand
from mmvitscale.models.swin_v2.windows import Window

# Numbers of expanded biases that one model may hold as constants. Beyond, the tables are held, (2 h - 1) (2 w - 1) instead of
# (h w)^2 numbers for each head, and laid out over the pairs of tokens where the file runs.
_EXPANDED = 2**26


class Folded(nn.Module):
    """The bias of windows of one shape: (heads, N, N), from a constant.

    Args:
        table: (heads, 2 h - 1, 2 w - 1).
        window: (h, w).
        expanded: hold it laid out over the pairs of tokens.
    """

    def __init__(self, table: Tensor, window: Window, expanded: bool):
        super().__init__()
        self.expanded = expanded
        if expanded:
            self.register_buffer('bias', expand(table, window).clone())
            return
        height, width = window
        self.register_buffer('table', table.flatten(1).clone())
        y, x = torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)
        self.register_buffer('index', (y[:, None] - y + height - 1) * (2 * width - 1) + x[:, None] - x + width - 1)

    def forward(self) -> Tensor:
        return self.bias if self.expanded else self.table[:, self.index]


class FoldedBiases(nn.Module):
    """In place of ``BiasCache``: those of the windows that it was shown before it was closed."""

    def __init__(self, budget: list[int]):
        super().__init__()
        self.folded = nn.ModuleDict()
        self.budget = budget  # numbers left, shared by all blocks

    def forward(self, bias: nn.Module, windows: Sequence[Window], pretrained_window: Window) -> list[Tensor]:
        """The biases of windows of these shapes, in this order."""
        for height, width in windows:
            name = f'{height}x{width}'
            if name not in self.folded:
                self.folded[name] = fold(bias((height, width), pretrained_window), (height, width), self.budget)
        return [self.folded[f'{height}x{width}']() for height, width in windows]


def fold(table: Tensor, window: Window, budget: list[int]) -> Folded:
    """(heads, 2 h - 1, 2 w - 1) -> its constant, laid out over the pairs of tokens while the budget, a list of the one number
    that is left, lasts."""
    numbers = len(table) * (window[0] * window[1]) ** 2
    expanded = numbers <= budget[0]
    if expanded:
        budget[0] -= numbers
    return Folded(table.detach(), window, expanded)


def new_budget() -> list[int]:
    """For the biases of one model."""
    return [_EXPANDED]


@torch.no_grad()
def fold_biases(backbone: nn.Module, image: Tensor) -> dict[str, int]:
    """Let the attention of a SwinV2 take its biases from constants, for images of this size.

    Args:
        backbone: changed in place; its kernels become eager, whose formula is what a graph should hold.
        image: (B, channels, H, W).

    Returns:
        how many biases are held expanded and how many as tables.
    """
    budget = new_budget()
    for stage in backbone.stages:
        for block in stage.blocks:
            block.attn.kernel = 'eager'
            block.attn._bias_cache = FoldedBiases(budget)
    backbone(image)
    folded = [module for module in backbone.modules() if isinstance(module, Folded)]
    return dict(expanded=sum(module.expanded for module in folded), tables=sum(not module.expanded for module in folded))
