"""Sizes of images from their headers; those that promise more pixels than there can be are refused before memory is taken for
them."""

import re
import struct
import warnings
from pathlib import Path
from typing import Any

import tifffile
from PIL import Image, UnidentifiedImageError

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


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image as OpenMMLab reads it: turned as its EXIF data say. Raises InputError for what cannot be
    read."""
    check_image_size(path)
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) >= 5
            floating = image.mode == 'F'
    except UnidentifiedImageError as error:  # Pillow does not know some TIFFs that OpenCV reads, such as 3 bands of 16 bits
        found = promised_size(path)
        if found is None:
            raise _unreadable(path, error) from error
        return found[1], found[0]
    except (OSError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error
    if floating:
        raise InputError(
            f'{path} has floating-point values, which the loaders of images do not take; convert it to 8 bits, or load it with '
            'mmvitscale.LoadMultispectralImage'
        )
    return (width, height) if turned else (height, width)


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f'{path} cannot be read as an image ({type(error).__name__}); repair or remove it')


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
    except UnidentifiedImageError:
        return _promised_by_tiff(path)
    except Image.DecompressionBombError as error:
        pixels = re.search(r'\((\d+) pixels\)', str(error))
        return (int(pixels[1]), 1, 3) if pixels else None
    except Exception:  # whatever a damaged header makes the readers raise
        return None


def _promised_by_tiff(path: Path) -> tuple[int, int, int] | None:
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            return page.imagewidth, page.imagelength, page.samplesperpixel
    except Exception:  # no TIFF, or a damaged one
        return None
