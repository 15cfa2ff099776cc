"""Which window each stage attends in, and which window its position bias was learned with (SwinV2, section 3.3)."""

from dataclasses import dataclass
from typing import List, Tuple

import torch
from torch import nn

from ..models.backbones.swin_v2 import SwinTransformerV2
from ..models.layers.position_bias import log_coordinates
from ..models.layers.windows import Window


@dataclass(frozen=True)
class StageWindows:
    """Windows of one stage, (height, width) in tokens. origin: who said so of the reference window: 'config',
    'checkpoint', or 'window_size' where nobody did."""
    reference: Window
    window: Window
    origin: str = 'window_size'

    @property
    def trained_coordinate(self) -> float:
        """The largest normalised log-coordinate of the reference window's offsets."""
        return max(_largest_coordinate(p, p) for p in self.reference)

    @property
    def coordinate(self) -> float:
        """The largest normalised log-coordinate of the window's offsets."""
        return max(_largest_coordinate(n, p) for n, p in zip(self.window, self.reference))

    @property
    def extrapolation(self) -> float:
        """How far the window's log-coordinates leave the trained range, relative to it; 0 if they do not."""
        worst = 0.0
        for n, p in zip(self.window, self.reference):
            if n > p:
                trained = _largest_coordinate(p, p)
                worst = max(worst, _largest_coordinate(n, p) / trained - 1 if trained else float('inf'))
        return worst

    @property
    def share_outside(self) -> float:
        """Share of the window's offsets that the reference window does not have."""
        offsets = [2 * n - 1 for n in self.window]
        inside = [min(2 * n - 1, 2 * p - 1) for n, p in zip(self.window, self.reference)]
        return 1 - inside[0] * inside[1] / (offsets[0] * offsets[1])


def _largest_coordinate(length: int, reference: int) -> float:
    return log_coordinates(torch.tensor(float(length - 1)), reference).item()


@dataclass(frozen=True)
class WindowLineage:
    """The windows of every stage of a backbone."""
    stages: Tuple[StageWindows, ...]

    @classmethod
    def of(cls, backbone: SwinTransformerV2) -> 'WindowLineage':
        """As the backbone stands now."""
        return cls(tuple(StageWindows(stage.reference, stage.window, stage.reference_origin)
                         for stage in backbone.stages))

    def as_dict(self) -> dict:
        """Plain lists, for a checkpoint's meta: reference windows and windows, one (h, w) per stage."""
        return dict(
            reference_windows=[list(stage.reference) for stage in self.stages],
            windows=[list(stage.window) for stage in self.stages])

    def report(self) -> str:
        """A table, one line per stage."""
        header = ('stage', 'reference window', 'from', 'window', 'log-coordinate: trained', 'now', 'beyond',
                  'offsets outside')
        rows = [(str(i), _by(stage.reference), stage.origin, _by(stage.window), f'{stage.trained_coordinate:.3f}',
                 f'{stage.coordinate:.3f}', f'{100 * stage.extrapolation:.0f}%', f'{100 * stage.share_outside:.0f}%')
                for i, stage in enumerate(self.stages)]
        widths = [max(map(len, column)) for column in zip(header, *rows)]
        return '\n'.join('  '.join(cell.rjust(width) for cell, width in zip(row, widths)) for row in [header, *rows])


def _by(window: Window) -> str:
    return f'{window[0]}x{window[1]}'


def swin_backbones(model: nn.Module) -> List[SwinTransformerV2]:
    """All SwinV2 backbones in a model, wrapped or not."""
    return [module for module in model.modules() if isinstance(module, SwinTransformerV2)]
