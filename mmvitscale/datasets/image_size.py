"""Images that promise more pixels than there can be, refused before memory is taken for them."""

import re
import struct
import warnings
from pathlib import Path
from typing import Any

from PIL import Image

from mmvitscale.errors import InputError

# OpenCV reads no more.
_MAX_PIXELS = 2**30
# Bytes that a byte of a file can stand for: 1032 in PNG's and TIFF's compression, and some hundreds in JPEG's.
_MAX_RATIO = 4000
_SMALL = 2**28  # bytes that are no danger


def check_image_size(path: Any) -> None:
    """Raise InputError for an image whose header promises more pixels than OpenCV reads, or than its bytes can hold. What is no
    image, or is of a format that is not known here, is left to whoever reads it."""
    path = Path(str(path))
    found = promised_size(path)
    if found is None:
        return
    width, height, channels = found
    pixels, size = width * height, path.stat().st_size
    if pixels >= _MAX_PIXELS or pixels * channels > max(_SMALL, _MAX_RATIO * size):
        shape = f'{width} x {height} pixels' if height > 1 else f'{width} pixels'
        raise InputError(
            f'image {path} promises {shape} in {size} bytes, so it was not read; it is damaged or made to fill '
            'the memory, or an image of a billion pixels, which tools/predict.py --tile reads by windows as TIFF'
        )


def promised_size(path: Path) -> tuple[int, int, int] | None:
    """(width, height, channels) as an image's header says, None for what is no image. Where the format's reader gives nothing
    but a number of pixels, that is the width."""
    try:
        with open(path, 'rb') as file:
            head = file.read(26)
        if head[:8] == b'\x89PNG\r\n\x1a\n' and len(head) == 26:
            width, height = struct.unpack('>II', head[16:24])
            return width, height, {0: 1, 3: 3, 4: 2, 2: 3}.get(head[25], 4)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return (*image.size, len(image.getbands()))
    except Image.DecompressionBombError as error:
        pixels = re.search(r'\((\d+) pixels\)', str(error))
        return (int(pixels[1]), 1, 3) if pixels else None
    except Exception:  # whatever a damaged header makes the readers raise
        return None
