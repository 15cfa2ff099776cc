"""Checkpoint metadata: what the weights of a backbone were trained with. It travels with them as one entry of the state dict.

The windows of a SwinV2 (section 3.3: the pretrained window scales every offset of the position bias) and the grid of a
DeepViT's position embedding do not show in the weights. A backbone holds them as plain values, writes them when it is saved
and reads them when it is loaded (``models/base_backbone.py``), so that the state dict cannot disagree with what runs, and
reading never waits for a GPU. ``log_cpb_transfer.py`` writes them into the meta of a checkpoint as well.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmvitscale.errors import InputError

Size = tuple[int, int]  # (height, width): a window in tokens, or a grid in patches

# The entry of the state dict, and of a checkpoint's ``meta``, as files hold them.
STATE_DICT_KEY = 'lineage'
META_KEY = 'window_lineage'
# Format of a backbone's state dict, in its PyTorch metadata: 3 holds a DeepViT's tokens, 2 (mmvitscale 0.2 and 0.3) the entry,
# 1 (mmvitscale 0.1.0) had buffers ``reference_window``.
VERSION = 3
# Up to here bfloat16 has every whole number.
_EXACT = 256
# The number of each kind of position bias in the state dict; 0 for unknown.
_POSITION_BIASES = {'log_cpb': 1, 'linear_cpb': 2, 'table': 3}


@dataclass(frozen=True)
class WindowMetadata:
    """Of a SwinV2; None stands for unknown.

    position_bias: the kind, log_cpb, linear_cpb or table. pretrained_windows: for each stage the window that the position bias
    was first trained with; a table has none. windows: for each stage the window that the weights last ran with.

    In the state dict: int64 (stages, 5), the kind's number, pretrained height and width, window height and width; of numbers
    above 256 (3, stages, 5), their digits.
    """

    position_bias: str | None
    pretrained_windows: tuple[Size | None, ...]
    windows: tuple[Size | None, ...]

    def encode(self) -> Tensor:
        """The entry of the state dict, on the CPU."""
        kind = _POSITION_BIASES.get(self.position_bias or '', 0)
        rows = [
            [kind, *(pretrained or (0, 0)), *(window or (0, 0))]
            for pretrained, window in zip(self.pretrained_windows, self.windows)
        ]
        return _entry(rows)

    @classmethod
    def decode(cls, entry: Tensor) -> 'WindowMetadata':
        """Raises InputError for what ``encode`` does not make. Half precision in between does no harm."""
        rows = integers(entry, (None, 5))
        kinds = {number: kind for kind, number in _POSITION_BIASES.items()}
        halves = any(bool(row[i]) != bool(row[i + 1]) for row in rows for i in (1, 3))
        if not rows or halves or any(row[0] != rows[0][0] for row in rows) or rows[0][0] not in {0, *kinds}:
            raise _damaged(rows)
        pretrained, windows = (tuple((row[i], row[i + 1]) if row[i] and row[i + 1] else None for row in rows) for i in (1, 3))
        return cls(kinds.get(rows[0][0]), pretrained, windows)

    def as_dict(self) -> dict[str, Any]:
        """Plain lists, for a checkpoint's meta."""
        return dict(
            position_bias=self.position_bias,
            reference_windows=_lists(self.pretrained_windows),
            windows=_lists(self.windows),
        )


@dataclass(frozen=True)
class GridMetadata:
    """Of a DeepViT. grid: (height, width) of the position embedding in patches. tokens: for each block the number of tokens
    that the statistics of its Re-attention are of, 0 for plain attention; empty where it is unknown.

    In the state dict: int64 (2 + 2 blocks,), the grid, and of each block tokens // 256 and tokens % 256. In format 2 (2,).
    """

    grid: Size
    tokens: tuple[int, ...] = ()

    def encode(self) -> Tensor:
        """The entry of the state dict, on the CPU."""
        digits = [digit for tokens in self.tokens for digit in divmod(tokens, 256)]
        return _entry([*self.grid, *digits])

    @classmethod
    def decode(cls, entry: Tensor) -> 'GridMetadata':
        """Raises InputError for what ``encode`` does not make."""
        numbers = integers(entry, (None,))
        if len(numbers) < 2 or len(numbers) % 2:
            raise _damaged(numbers)
        tokens = tuple(256 * high + low for high, low in zip(numbers[2::2], numbers[3::2]))
        return cls((numbers[0], numbers[1]), tokens)


WeightMetadata = WindowMetadata | GridMetadata


def _entry(numbers: list[Any]) -> Tensor:
    """Whole numbers in nested lists -> int64, on the CPU. Where one is above 256, their three digits to the base 256 along an
    axis in front: so they outlive a cast to bfloat16 with all the weights."""
    entry = torch.tensor(numbers, dtype=torch.int64, device='cpu')
    flat = [number for row in numbers for number in (row if isinstance(row, list) else [row])]
    if max(flat, default=0) <= _EXACT:
        return entry
    return torch.stack([entry // _EXACT**2, entry // _EXACT % _EXACT, entry % _EXACT])


def integers(entry: Tensor, shape: Sequence[int | None]) -> list[Any]:
    """A tensor of this shape, None for any length, with whole numbers >= 0 of any type, or their digits as ``_entry`` writes
    them -> lists of them. Raises InputError for another."""
    if entry.ndim == len(shape) + 1 and len(entry) == 3:
        digits = entry.detach().cpu().double()
        entry = (digits[0] * _EXACT + digits[1]) * _EXACT + digits[2]
    if entry.ndim != len(shape) or any(want not in (None, have) for want, have in zip(shape, entry.shape)):
        raise _damaged(f'of shape {tuple(entry.shape)}')
    numbers = entry.detach().cpu().double()
    if not bool(((numbers >= 0) & (numbers == numbers.round())).all()):
        raise _damaged(numbers.tolist())
    return numbers.long().tolist()


def _damaged(found: object) -> InputError:
    return InputError(
        f'the metadata of the weights (entry {STATE_DICT_KEY}) is {found}, which no version of mmvitscale writes; take the '
        'file as it was saved'
    )


def _lists(windows: Sequence[Size | None]) -> list[list[int] | None]:
    return [list(window) if window else None for window in windows]


def check_pretrained_windows(found: Sequence[Size | None], given: Sequence[Size | None], option: str) -> None:
    """Raise InputError where the pretrained windows that a checkpoint contains, and those that the user gave with ``option``,
    contradict each other. None agrees with everything."""
    for i, (own, other) in enumerate(zip(found, given)):
        if own and other and own != other:
            raise InputError(
                f'the position biases were trained with the windows {show_windows(found)}, but {option} '
                f'says {show_windows(given)} (stage {i} differs); leave {option} out to take those of the checkpoint'
            )


def show_windows(windows: Sequence[Size | None]) -> str:
    """``8x8, 8x8, 8x8, 4x4``; one for all where they are equal."""
    shown = ['unknown' if window is None else f'{window[0]}x{window[1]}' for window in windows]
    return shown[0] if len(set(shown)) == 1 else ', '.join(shown)


def describe_window_change(found: WeightMetadata | None, used: WeightMetadata) -> str | None:
    """One line where the windows that weights last ran with are others than those used, else None."""
    if (
        not isinstance(found, WindowMetadata)
        or not isinstance(used, WindowMetadata)
        or not any(window and window != own for window, own in zip(found.windows, used.windows))
    ):
        return None
    return (
        f'the weights last ran with windows of {show_windows(found.windows)} tokens, here they run with '
        f'{show_windows(used.windows)}'
    )


def pretrained_windows_of_name(name: str) -> list[int] | None:
    """Name of a published checkpoint, such as ``swinv2_base_window12to24_192to384_22kft1k`` -> the pretrained window of each
    of its four stages, or None.

    The first number is the window of pretraining, the one behind it the side of its images; a stage whose map is smaller
    than the window was trained with its map.
    """
    match = re.search(r'window(\d+)(?:to\d+)?[-_](\d+)', name)
    if not match:
        return None
    window, side = map(int, match.groups())
    return [min(window, max(side // (4 * 2**stage), 1)) for stage in range(4)]


def dataset_meta_in(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What MMEngine has saved of the training data (``classes``, ``palette``); {} where a file holds something else there."""
    meta = checkpoint.get('meta')
    found = meta.get('dataset_meta') if isinstance(meta, dict) else None
    return found if isinstance(found, dict) else {}


def classes_in(checkpoint: dict[str, Any]) -> list[str]:
    """Names of the classes that a checkpoint was trained for; none where it does not say."""
    classes = dataset_meta_in(checkpoint).get('classes')
    if not isinstance(classes, (list, tuple)) or not all(isinstance(name, str) for name in classes):
        return []
    return list(classes)
