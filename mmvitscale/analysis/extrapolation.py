"""How far the windows of a SwinV2 reach beyond those that its position bias was trained with (section 3.3)."""

from dataclasses import dataclass

import torch
from torch import nn

from mmvitscale.checkpoints.loading import backbones_of
from mmvitscale.checkpoints.metadata import show_windows
from mmvitscale.models import SwinTransformerV2
from mmvitscale.models.swin_v2.position_bias import log_coordinates
from mmvitscale.models.swin_v2.windows import Window


@dataclass(frozen=True)
class StageWindows:
    """Windows of one stage, (height, width) in tokens: the one its position bias was trained with, and its own."""

    pretrained_window: Window
    window: Window

    @property
    def trained_coordinate(self) -> float:
        """The largest normalised log-coordinate of the pretrained window's offsets."""
        return max(_largest_coordinate(p, p) for p in self.pretrained_window)

    @property
    def coordinate(self) -> float:
        """The largest normalised log-coordinate of the window's offsets."""
        return max(_largest_coordinate(n, p) for n, p in zip(self.window, self.pretrained_window))

    @property
    def extrapolation(self) -> float:
        """How far the window's log-coordinates leave the trained range, relative to it; 0 if they do not."""
        worst = 0.0
        for n, p in zip(self.window, self.pretrained_window):
            if n > p:
                trained = _largest_coordinate(p, p)
                worst = max(worst, _largest_coordinate(n, p) / trained - 1 if trained else float('inf'))
        return worst

    @property
    def share_outside(self) -> float:
        """Share of the window's offsets that the pretrained window does not have."""
        offsets = [2 * n - 1 for n in self.window]
        inside = [min(2 * n - 1, 2 * p - 1) for n, p in zip(self.window, self.pretrained_window)]
        return 1 - inside[0] * inside[1] / (offsets[0] * offsets[1])


def _largest_coordinate(length: int, pretrained_window: int) -> float:
    return log_coordinates(torch.tensor(float(length - 1)), pretrained_window).item()


def report(backbone: SwinTransformerV2) -> str:
    """A table, one line per stage. Bias tables have no pretrained window; they are read bicubically."""
    header = ('stage', 'pretrained window', 'from', 'window', 'log-coordinate: trained', 'now', 'beyond', 'offsets outside')
    rows = []
    for i, stage in enumerate(backbone.stages):
        if backbone.position_bias == 'table':
            rows.append((str(i), 'none', 'table', show_windows([stage.window]), *'----'))
            continue
        windows = StageWindows(stage.pretrained_window, stage.window)
        rows.append(
            (
                str(i),
                show_windows([stage.pretrained_window]),
                stage.pretrained_window_source,
                show_windows([stage.window]),
                f'{windows.trained_coordinate:.3f}',
                f'{windows.coordinate:.3f}',
                f'{100 * windows.extrapolation:.0f}%',
                f'{100 * windows.share_outside:.0f}%',
            )
        )
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    return '\n'.join('  '.join(cell.rjust(width) for cell, width in zip(row, widths)) for row in [header, *rows])


def swin_backbones(model: nn.Module) -> list[SwinTransformerV2]:
    """All SwinV2 backbones in a model, wrapped or not."""
    return [backbone for backbone in backbones_of(model).values() if isinstance(backbone, SwinTransformerV2)]
