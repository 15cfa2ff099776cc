"""Masks of COCO annotations: polygons and run lengths (RLE) that mean what they say, before pycocotools and mmdet read them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmvitscale.errors import InputError

# Numbers of the smallest polygon: three points. pycocotools takes four numbers for a box, and never ends with none.
_LEAST = 6


def is_mask(mask: object) -> bool:
    """Whether it has the form of COCO's masks: a list of polygons, each a list of numbers, or a dict of counts and size."""
    if isinstance(mask, dict):
        size, counts = mask.get('size'), mask.get('counts')
        numbers = isinstance(counts, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in counts)
        return (isinstance(counts, str) or numbers) and isinstance(size, list) and len(size) == 2 and all(map(_is_side, size))
    return isinstance(mask, list) and all(
        isinstance(part, list) and all(isinstance(v, (int, float)) and abs(v) < 1e9 for v in part) for part in mask
    )


def _is_side(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e9


def coco_api() -> Any:
    """The functions for masks of pycocotools. Raises InputError where it is not installed."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise InputError('masks and polygons of objects need the package pycocotools; pip install pycocotools') from error
    return mask


def polygons_of(mask: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """The parts that mmdet uses: pairs of numbers, three points or more."""
    return [part for part in mask if len(part) % 2 == 0 and len(part) >= _LEAST]


def has_pixels(mask: dict | Sequence[Sequence[float]], height: int, width: int) -> bool:
    """Whether a mask whose form and run lengths have been checked covers a pixel of its image."""
    if isinstance(mask, dict):
        return bool(run_lengths(mask['counts'])[1::2].any())
    parts = polygons_of(mask)
    if any(_area(part) >= 1 and _is_inside(part, height, width) for part in parts):
        return True  # the usual case, without drawing it
    coco = coco_api()
    return any(coco.area(coco.frPyObjects([list(part)], height, width))[0] for part in parts)


def _area(part: Sequence[float]) -> float:
    """Of a polygon x, y, x, y, ..., in pixels; less where it crosses itself."""
    x, y = part[0::2], part[1::2]
    return abs(sum(x[i - 1] * y[i] - x[i] * y[i - 1] for i in range(len(x)))) / 2


def _is_inside(part: Sequence[float], height: int, width: int) -> bool:
    return min(part) >= 0 and max(part[0::2]) <= width and max(part[1::2]) <= height


def run_lengths(counts: str | Sequence[int]) -> np.ndarray:
    """Run lengths of a mask, (n,) int64: zeros and ones by turns, down the columns.

    Args:
        counts: the numbers, or COCO's text of them: six bits a character, five of them the number's, from the fourth number
            on the difference to the last but one.

    Raises:
        ValueError: for a text that is none of COCO's.
    """
    if not isinstance(counts, str):
        return np.asarray(counts, np.int64)
    codes = np.frombuffer(counts.encode('ascii', 'replace'), np.uint8).astype(np.int64) - 48
    if not len(codes):
        return codes
    ends = np.flatnonzero((codes & 32) == 0)
    if codes.min() < 0 or codes.max() > 63 or not len(ends) or ends[-1] != len(codes) - 1:
        raise ValueError("no run lengths in COCO's text form")
    starts = np.r_[0, ends[:-1] + 1]
    places = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    if places.max() > 11:
        raise ValueError('a run length of more than 60 bits')
    values = np.add.reduceat((codes & 31) << (5 * places), starts)
    values -= np.where(codes[ends] & 16, np.int64(1) << (5 * (ends - starts + 1)), 0)
    values[1::2], values[2::2] = values[1::2].cumsum(), values[2::2].cumsum()
    return values


def encode_mask(mask: np.ndarray, corner: tuple[int, int] = (0, 0), size: tuple[int, int] | None = None) -> dict:
    """(h, w) bool -> its run lengths as COCO writes them. It may be a part of a larger mask of zeros.

    Args:
        corner: left and top of the part.
        size: height and width of the whole, the mask's own if None.
    """
    coco = coco_api()
    height, width = size or mask.shape
    columns, rows = np.nonzero(mask.T)  # runs go down the columns
    places = (columns.astype(np.int64) + corner[0]) * height + rows + corner[1]
    breaks = np.flatnonzero(np.diff(places) != 1)
    starts = places[np.r_[0, breaks + 1]] if len(places) else places
    stops = places[np.r_[breaks, len(places) - 1]] + 1 if len(places) else places
    edges = np.stack([starts, stops], axis=1).flatten()
    counts = np.diff(np.r_[0, edges, height * width])
    counts = counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts  # as COCO's own program ends
    encoded = coco.frPyObjects(dict(counts=counts.tolist(), size=[height, width]), height, width)
    return dict(size=[height, width], counts=encoded['counts'].decode())


def check_mask(item: dict, width: float, height: float, ann_file: Path) -> None:
    """Raise InputError for an annotation whose mask has no form of COCO's, is of another size than its image, or whose run
    lengths do not fill it."""
    mask, where = item['segmentation'], f'the annotation of id {item["id"]} in {ann_file}'
    if not is_mask(mask):
        raise InputError(
            f'{where} has the segmentation {str(mask)[:60]!r}, but it is a list of polygons, each a list of numbers x, y, x, '
            'y, ..., or a dict of counts and size; correct it'
        )
    if not isinstance(mask, dict):
        numbers = [value for part in mask for value in part]
        if numbers and max(numbers) <= 1 and min(item['bbox'][2:]) > 2:
            raise InputError(
                f'{where} has a polygon in shares of the image, but polygons are in pixels; multiply with its size'
            )
        return
    if mask['size'] != [height, width]:
        raise InputError(f'{where} has a mask of {mask["size"]} pixels, but its image has [{height}, {width}]; correct it')
    try:
        counts = run_lengths(mask['counts'])
    except ValueError as error:
        raise InputError(
            f'{where} has a segmentation whose counts {str(mask["counts"])[:40]!r} cannot be read ({error}); export the mask '
            'again'
        ) from error
    total = int(counts.sum())
    if (counts < 0).any() or total != height * width:
        found = 'negative numbers among its counts' if (counts < 0).any() else f'counts of {total} pixels together'
        raise InputError(
            f'{where} has a mask with {found}, but run lengths add up to height x width, {int(height * width)}; export the '
            'mask again'
        )
