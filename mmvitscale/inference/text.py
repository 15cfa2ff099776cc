"""Text in pictures, in any script that a font of the machine has."""

import logging
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log
from PIL import ImageFont

_ELLIPSIS = '…'
_said: set[str] = set()


@lru_cache(1024)
def text_mask(text: str, size: int) -> np.ndarray:
    """A line of text in a font of so many pixels -> (H, W) uint8, 255 where it is; all lines of a size are equally high."""
    text = ' '.join(text.split())
    font = _font(_font_for(text), size)
    above, below = font.getmetrics()
    box = font.getbbox(text)
    mask = np.zeros((above + below, max(int(np.ceil(box[2])), 1)), np.uint8)
    drawn, (left, top) = font.getmask2(text, 'L')
    pixels = np.array(drawn, np.uint8).reshape(drawn.size[::-1])
    top, left = max(top, 0), max(left, 0)
    height, width = min(pixels.shape[0], mask.shape[0] - top), min(pixels.shape[1], mask.shape[1] - left)
    if height > 0 and width > 0:
        mask[top : top + height, left : left + width] = pixels[:height, :width]
    return mask


@lru_cache(1024)
def fit_text(text: str, size: int, width: int) -> str:
    """The text, or as much of its beginning as is no wider than so many pixels, and an ellipsis."""
    if text_mask(text, size).shape[1] <= width:
        return text
    fits, too_long = 0, len(text)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if text_mask(text[:middle] + _ELLIPSIS, size).shape[1] <= width:
            fits = middle
        else:
            too_long = middle
    return text[:fits] + _ELLIPSIS


def draw_text(picture: np.ndarray, text: str, corner: tuple[int, int], size: int, colour: tuple[int, ...]) -> None:
    """Draw a line of text into (H, W, 3) uint8, in place; what does not fit into the picture is left out.

    Args:
        picture: in whose channels the colour is given.
        text: any.
        corner: left and top of the line.
        size: of the font in pixels.
        colour: of the text.
    """
    mask, (left, top) = text_mask(text, size), corner
    mask = mask[max(-top, 0) :, max(-left, 0) :]
    part = picture[max(top, 0) :, max(left, 0) :][: mask.shape[0], : mask.shape[1]]
    weight = mask[: part.shape[0], : part.shape[1], None] / 255
    part[:] = np.rint(part * (1 - weight) + np.array(colour) * weight).astype(np.uint8)


@cache
def _font(path: str | None, size: int) -> Any:
    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)


@cache
def _dejavu() -> str | None:
    """It comes with matplotlib, and has the scripts of Europe, Arabic and many signs."""
    import matplotlib

    path = Path(matplotlib.get_data_path(), 'fonts/ttf/DejaVuSans.ttf')
    return str(path) if path.is_file() else None


@cache
def _characters(path: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError, UnicodeError):  # a font that FreeType does not read
        return frozenset()


@lru_cache(4096)
def _font_for(text: str) -> str | None:
    """The font that has the most of a text's characters; of equal ones the usual one."""
    usual, wanted = _dejavu(), {ord(character) for character in text if not character.isspace()}
    if usual is None or wanted <= _characters(usual):
        return usual
    from matplotlib.font_manager import fontManager

    # LastResort has a box for every character.
    others = sorted({font.fname for font in fontManager.ttflist if 'LastResort' not in font.fname})
    best = max([usual, *others], key=lambda path: len(wanted & _characters(path)))
    lacking = ''.join(sorted(chr(code) for code in wanted - _characters(best)))
    if lacking and not _said:
        _said.add(lacking)
        print_log(
            f'no font of this machine has {lacking}, which pictures show as boxes; install one that has, such as Noto Sans',
            'current',
            level=logging.WARNING,
        )
    return best


def font_families(text: str) -> list[str]:
    """For matplotlib: the usual font, and the one that has most of the text."""
    from matplotlib.font_manager import FontProperties

    paths = dict.fromkeys(path for path in (_dejavu(), _font_for(text)) if path)
    return [FontProperties(fname=path).get_name() for path in paths]
