"""Position biases as surfaces over the offset between two tokens, at several windows (SwinV2, section 3.3, figure 4)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmvitscale.errors import InputError
from mmvitscale.models import SwinTransformerV2
from mmvitscale.models.swin_v2.windows import Window, to_window

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage


@dataclass(frozen=True)
class BiasSurface:
    """The position bias of a block in windows of (h, w) tokens.

    surface: (heads, 2 h - 1, 2 w - 1), offset (0, 0) in the middle. learned: (p, q), the window that it was trained with:
    offsets of p tokens or more vertically, q or more horizontally, are extrapolated.
    """

    stage: int
    block: int
    window: Window
    learned: Window
    surface: Tensor

    def outside(self) -> Tensor:
        """(2 h - 1, 2 w - 1) bool, which offsets did not occur in the learned window."""
        rows, columns = (torch.arange(1 - n, n).abs() >= p for n, p in zip(self.window, self.learned))
        return rows[:, None] | columns

    def summary(self) -> dict:
        """Range inside and outside of what was learned, averaged over heads: ``None`` where there is nothing."""

        def of(values):
            return [values.min().item(), values.max().item()] if values.numel() else None

        mean, outside = self.surface.mean(0), self.outside()
        return dict(
            stage=self.stage,
            block=self.block,
            window=list(self.window),
            learned=list(self.learned),
            inside=of(mean[~outside]),
            outside=of(mean[outside]),
        )


@torch.no_grad()
def bias_surfaces(backbone: SwinTransformerV2, windows: Sequence[Window], stage: int = 0, block: int = 0) -> list[BiasSurface]:
    """One block's bias in windows of each size. The backbone is left as it was.

    Raises:
        InputError: for a stage or block that is not there.
    """
    if not 0 <= stage < len(backbone.stages):
        raise InputError(f'stage {stage} found, but the backbone has the stages 0 to {len(backbone.stages) - 1}')
    blocks, own = backbone.stages[stage].blocks, backbone.stages[stage]
    if not 0 <= block < len(blocks):
        raise InputError(f'block {block} found, but stage {stage} has the blocks 0 to {len(blocks) - 1}')
    attn = blocks[block].attn
    surfaces = []
    try:
        for window in map(to_window, windows):
            attn.set_window(window)
            learned = own.pretrained_window
            if backbone.position_bias == 'table':
                learned = _window_of(attn.position_bias.table)
            surface = attn.position_bias(window, own.pretrained_window).detach().float().cpu()
            surfaces.append(BiasSurface(stage, block, window, learned, surface))
    finally:
        attn.set_window(own.window)
    return surfaces


def _window_of(table: Tensor) -> tuple[int, int]:
    return (table.shape[1] + 1) // 2, (table.shape[2] + 1) // 2


def draw_surface(axes: 'Axes', surface: BiasSurface, head: int | None = None, **limits: float) -> 'AxesImage':
    """Onto matplotlib's axes, a head or the mean over heads, with a dashed frame around what was learned where the window is
    larger. limits: vmin and vmax. Returns the image, for a colour bar."""
    from matplotlib.patches import Rectangle

    (h, w), (p, q) = surface.window, surface.learned
    values = surface.surface.mean(0) if head is None else surface.surface[head]
    shown = axes.imshow(values, extent=(0.5 - w, w - 0.5, h - 0.5, 0.5 - h), **limits)
    if p < h or q < w:
        p, q = min(p, h), min(q, w)
        frame = Rectangle((0.5 - q, 0.5 - p), 2 * q - 1, 2 * p - 1, fill=False, ec='white', ls='--', lw=1.5)
        axes.add_patch(frame)
    return shown
