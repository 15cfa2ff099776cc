"""What the weights of a backbone were learned with, and how it travels with them: one entry of the state dict, ``lineage``.

The windows of a SwinV2 (section 3.3: the window that a position bias was learned with scales every offset) and the grid
of a DeepViT's position embedding do not show in the weights. A backbone holds them as plain values, writes them when it
is saved and reads them when it is loaded, so that the state dict cannot disagree with what runs, and reading never waits
for a GPU.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError

Window = tuple[int, int]  # (height, width) in tokens

KEY = 'lineage'
# Of a backbone's state dict, in its metadata: 3 holds a DeepViT's tokens, 2 the entry, 1 (mmvitscale 0.1.0) had buffers
# ``reference_window``.
VERSION = 3
# The number of each kind of position bias in the state dict; 0 for unknown.
_POSITION_BIASES = {'log_cpb': 1, 'linear_cpb': 2, 'table': 3}


@dataclass(frozen=True)
class WindowLineage:
    """Of a SwinV2; None stands for what nobody knows.

    position_bias: the kind, log_cpb, linear_cpb or table. references: for each stage the window that the position bias
    was first learned with; a table has none. windows: for each stage the window that the weights last ran with.

    In the state dict: int64 (stages, 5), the kind's number, reference height and width, window height and width.
    """

    position_bias: str | None
    references: tuple[Window | None, ...]
    windows: tuple[Window | None, ...]

    def encode(self) -> Tensor:
        """The entry of the state dict, on the CPU."""
        kind = _POSITION_BIASES.get(self.position_bias, 0)
        rows = [[kind, *(reference or (0, 0)), *(window or (0, 0))] for reference, window in zip(self.references, self.windows)]
        return torch.tensor(rows, dtype=torch.int64, device='cpu')

    @classmethod
    def decode(cls, entry: Tensor) -> 'WindowLineage':
        """Raises InputError for what ``encode`` does not make. Half precision in between does no harm."""
        rows = integers(entry, (None, 5))
        kinds = {number: kind for kind, number in _POSITION_BIASES.items()}
        halves = any(bool(row[i]) != bool(row[i + 1]) for row in rows for i in (1, 3))
        if not rows or halves or any(row[0] != rows[0][0] for row in rows) or rows[0][0] not in {0, *kinds}:
            raise _damaged(rows)
        return cls(
            kinds.get(rows[0][0]),
            *(tuple(tuple(row[i : i + 2]) if all(row[i : i + 2]) else None for row in rows) for i in (1, 3)),
        )

    def as_dict(self) -> dict:
        """Plain lists, for a checkpoint's meta."""
        return dict(position_bias=self.position_bias, reference_windows=_lists(self.references), windows=_lists(self.windows))


@dataclass(frozen=True)
class GridLineage:
    """Of a DeepViT. grid: (height, width) of the position embedding in patches. tokens: for each block the number of tokens
    that the statistics of its Re-attention are kept for, 0 for plain attention; none where nobody knows.

    In the state dict: int64 (2 + 2 blocks,), the grid, and of each block tokens // 256 and tokens % 256: numbers that half
    precision keeps. Before 0.4.0 (2,).
    """

    grid: tuple[int, int]
    tokens: tuple[int, ...] = ()

    def encode(self) -> Tensor:
        """The entry of the state dict, on the CPU."""
        digits = [digit for tokens in self.tokens for digit in divmod(tokens, 256)]
        return torch.tensor([*self.grid, *digits], dtype=torch.int64, device='cpu')

    @classmethod
    def decode(cls, entry: Tensor) -> 'GridLineage':
        """Raises InputError for what ``encode`` does not make."""
        numbers = integers(entry, (None,))
        if len(numbers) < 2 or len(numbers) % 2:
            raise _damaged(numbers)
        return cls(tuple(numbers[:2]), tuple(256 * high + low for high, low in zip(numbers[2::2], numbers[3::2])))


Lineage = WindowLineage | GridLineage


def integers(entry: Tensor, shape: Sequence[int | None]) -> list:
    """A tensor of this shape, None for any length, with whole numbers >= 0 of any type -> lists of them. Raises InputError
    for another."""
    if entry.ndim != len(shape) or any(want not in (None, have) for want, have in zip(shape, entry.shape)):
        raise _damaged(f'of shape {tuple(entry.shape)}')
    numbers = entry.detach().cpu().double()
    if not bool(((numbers >= 0) & (numbers == numbers.round())).all()):
        raise _damaged(numbers.tolist())
    return numbers.long().tolist()


def _damaged(found) -> InputError:
    return InputError(
        f'the lineage of the weights is {found}, which no version of mmvitscale writes; take the file as it was saved'
    )


def _lists(windows: Sequence[Window | None]) -> list[list | None]:
    return [list(window) if window else None for window in windows]


def check_agreement(learned: Sequence[Window | None], given: Sequence[Window | None], option: str) -> None:
    """Raise InputError where the reference windows that weights tell, and those that the user gave with ``option``,
    contradict each other. None agrees with everything."""
    for i, (found, told) in enumerate(zip(learned, given)):
        if found and told and found != told:
            raise InputError(
                f'the position biases were learned with the windows {show_windows(learned)}, but {option} '
                f'says {show_windows(given)} (stage {i} differs); leave {option} out to take what the '
                'weights tell'
            )


def show_windows(windows: Sequence[Window | None]) -> str:
    """``8x8, 8x8, 8x8, 4x4``; one for all where they are equal."""
    shown = ['unknown' if window is None else f'{window[0]}x{window[1]}' for window in windows]
    return shown[0] if len(set(shown)) == 1 else ', '.join(shown)


def windows_changed(learned: Lineage | None, used: Lineage) -> str | None:
    """One line where the windows that weights last ran with are others than those used, else None."""
    if (
        not isinstance(learned, WindowLineage)
        or not isinstance(used, WindowLineage)
        or not any(window and window != own for window, own in zip(learned.windows, used.windows))
    ):
        return None
    return (
        f'the weights last ran with windows of {show_windows(learned.windows)} tokens, here they run with '
        f'{show_windows(used.windows)}'
    )


def reference_of_name(name: str) -> list[int] | None:
    """Name of a published checkpoint, such as ``swinv2_base_window12to24_192to384_22kft1k`` -> the reference window of each
    of its four stages, or None.

    The first number is the window of pretraining, the one behind it the side of its images; a stage whose map is smaller
    than the window was learned with its map.
    """
    match = re.search(r'window(\d+)(?:to\d+)?[-_](\d+)', name)
    if not match:
        return None
    window, side = map(int, match.groups())
    return [min(window, max(side // (4 * 2**stage), 1)) for stage in range(4)]
