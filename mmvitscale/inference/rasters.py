"""Large images by windows: read from files that rasterio opens, label maps written as tiled TIFF with their georeference."""

import importlib.util
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageOps

from mmvitscale.errors import InputError
from mmvitscale.inference.images import ImageReader

if TYPE_CHECKING:
    from rasterio import Affine
    from rasterio.windows import Window

_BY_WINDOWS = {'.tif', '.tiff', '.vrt', '.jp2', '.img'}
# Of GDAL's own cache, in MB: by default it takes a twentieth of the memory.
_CACHE = 64

Region = tuple[int, int, int, int]  # top, left, height, width


def has_rasterio() -> bool:
    """Whether files can be read and written by windows."""
    return importlib.util.find_spec('rasterio') is not None


def raster_suffixes() -> set[str]:
    """Of the files that are read by windows."""
    return set(_BY_WINDOWS) if has_rasterio() else set()


class Raster:
    """An image that is read by regions.

    size: (height, width). read: a region -> its image as the config's loader makes it. overview: (height, width) -> the whole
        image at that size, (h, w, 3) uint8 BGR. empty: a region -> (h, w) bool, where it is transparent or without data, None
        if no pixel of the image is. profile: what a file of the same place has, for rasterio.
    """

    def __init__(
        self,
        size: tuple[int, int],
        read: Callable[[Region], np.ndarray],
        overview: Callable[[tuple[int, int]], np.ndarray],
        empty: Callable[[Region], np.ndarray | None],
        profile: dict,
    ):
        self.size, self.read, self.overview, self.empty, self.profile = size, read, overview, empty, profile


@contextmanager
def open_raster(path: Path, reader: ImageReader) -> Iterator[Raster]:
    """TIFF and what else rasterio reads, by windows; other formats, or without rasterio, from the memory. Raises InputError
    for what cannot be read."""
    with ExitStack() as stack:
        yield _windowed(path, reader, stack) if path.suffix.lower() in raster_suffixes() else _whole(path, reader)


def _whole(path: Path, reader: ImageReader) -> Raster:
    fields, picture = reader.read(path)
    image, hidden = fields['img'], transparent_pixels(path)
    if hidden is not None and hidden.shape != image.shape[:2]:
        hidden = None

    def part_of(whole):
        return lambda region: whole[region[0] : region[0] + region[2], region[1] : region[1] + region[3]]

    return Raster(
        image.shape[:2],
        part_of(image),
        lambda size: cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA),
        (lambda region: None) if hidden is None else part_of(hidden),
        {},
    )


def transparent_pixels(path: Path) -> np.ndarray | None:
    """(H, W) bool of an image that Pillow reads; None where the file has no transparency."""
    try:
        with Image.open(path) as image:
            if 'A' not in image.getbands() and 'transparency' not in image.info:
                return None
            return np.asarray(ImageOps.exif_transpose(image.convert('RGBA')).getchannel('A')) == 0
    except Exception:  # whatever another reader has made of the file
        return None


def _tag(path: Path, number: int) -> int | None:
    """The (first) value of a TIFF's tag that GDAL passes over: 274 is the orientation, 338 what further channels are."""
    if path.suffix.lower() in ('.tif', '.tiff'):
        with suppress(Exception), tifffile.TiffFile(path) as file:  # of a damaged file the reader complains
            return int(np.ravel(file.pages[0].tags[number].value)[0])
    return None


class _Window:
    """Parts of a file, each written as a small TIFF of the same kind for the config's own loader: colours, alpha, 16 bits and
    what cannot be read are the same as when the file is read whole."""

    def __init__(self, path: Path, file, reader: ImageReader, folder: str):
        from rasterio.enums import ColorInterp

        self.path, self.file, self.reader, self.part = path, file, reader, Path(folder, 'window.tif')
        about = file.tags(1, ns='IMAGE_STRUCTURE')
        kinds = file.colorinterp
        self.table = file.colormap(1) if kinds[0] == ColorInterp.palette else None
        inverted = file.tags(ns='IMAGE_STRUCTURE').get('MINISWHITE') == 'YES'
        photometric = {ColorInterp.palette: 'palette', ColorInterp.red: 'rgb', ColorInterp.cyan: 'cmyk'}.get(
            kinds[0], 'miniswhite' if inverted else 'minisblack'
        )
        alpha = 'unspecified'
        if ColorInterp.alpha in kinds:
            alpha = 'premultiplied' if _tag(path, 338) == 1 else 'non-premultiplied'
        self.profile = dict(driver='GTiff', interleave='pixel', photometric=photometric, alpha=alpha)
        if about.get('NBITS'):
            self.profile['nbits'] = about['NBITS']

    def load(self, bands: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(bands, h, w) -> what the loader makes of it, and its picture."""
        import rasterio

        count, height, width = bands.shape
        shape = dict(count=count, height=height, width=width, dtype=bands.dtype)
        with rasterio.open(self.part, 'w', **shape, **self.profile) as file:
            if self.table is not None:
                file.write_colormap(1, self.table)
            file.write(bands)
        try:
            fields, picture = self.reader.read(self.part)
        except InputError as error:
            raise InputError(str(error).replace(str(self.part), str(self.path))) from error
        return fields['img'], picture


def _windowed(path: Path, reader: ImageReader, stack: ExitStack) -> Raster:
    import rasterio
    from rasterio.enums import MaskFlags, Resampling
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    stack.enter_context(warnings.catch_warnings())
    warnings.simplefilter('ignore', NotGeoreferencedWarning)
    stack.enter_context(rasterio.Env(GDAL_CACHEMAX=_CACHE))
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    try:
        file = stack.enter_context(rasterio.open(path))
        window = _Window(path, file, reader, folder)
    except (RasterioError, IndexError, ValueError) as error:
        raise InputError(f'{path} cannot be read as an image ({error}); check the file') from error
    turn = Orientation(path, (file.height, file.width))

    def checked(read: Callable, **options) -> np.ndarray:
        try:
            return turn(read(**options))
        except RasterioError as error:
            raise InputError(f'{path} cannot be read to its end ({error}); check the file') from error

    def overview(size):
        way = Resampling.nearest if window.table is not None else Resampling.average
        return window.load(checked(file.read, out_shape=(file.count, *turn.stored_size(size)), resampling=way))[1]

    def empty(region):
        if all(MaskFlags.all_valid in flags for flags in file.mask_flag_enums):
            return None
        return checked(file.dataset_mask, window=turn.window(region)) == 0

    return Raster(
        turn.size,
        lambda region: window.load(checked(file.read, window=turn.window(region)))[0],
        overview,
        empty,
        dict(crs=file.crs, transform=turn.place(file.transform)),
    )


class Orientation:
    """How a TIFF is to be turned, as its orientation tag says and OpenCV does.

    Called with stored pixels (..., h, w) it returns them as they are shown.

    Args:
        path: of the file.
        stored: its (height, width) as it is stored.
    """

    def __init__(self, path: Path, stored: tuple[int, int]):
        value = _tag(path, 274)
        # The eight ways: exchange of rows and columns, then turned upside down, then left to right.
        self.transposed, self.rows, self.columns = value in (5, 6, 7, 8), value in (3, 4, 7, 8), value in (2, 3, 6, 7)
        self.size = self.stored_size(stored)

    def stored_size(self, size: Sequence[int]) -> tuple[int, int]:
        """(height, width) as shown -> as stored, and the reverse."""
        height, width = size
        return (width, height) if self.transposed else (height, width)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        pixels = pixels.swapaxes(-1, -2) if self.transposed else pixels
        pixels = pixels[..., ::-1, :] if self.rows else pixels
        return np.ascontiguousarray(pixels[..., ::-1] if self.columns else pixels)

    def window(self, region: Region) -> 'Window':
        """Of the stored pixels that a region shows, for rasterio."""
        from rasterio.windows import Window

        top, left, height, width = region
        top = self.size[0] - top - height if self.rows else top
        left = self.size[1] - left - width if self.columns else left
        return Window(top, left, height, width) if self.transposed else Window(left, top, width, height)

    def place(self, stored: 'Affine') -> 'Affine':
        """Where stored (column, row) are on earth -> where those that are shown are."""
        from rasterio import Affine

        if not (self.transposed or self.rows or self.columns):
            return stored
        turned = Affine(-1, 0, self.size[1], 0, 1, 0) if self.columns else Affine.identity()
        turned = turned @ Affine(1, 0, 0, 0, -1, self.size[0]) if self.rows else turned
        return stored @ (Affine(0, 1, 0, 1, 0, 0) @ turned if self.transposed else turned)


@contextmanager
def label_raster(
    path: Path,
    size: tuple[int, int],
    dtype: np.dtype,
    profile: dict,
    nodata: int | None = None,
    colours: dict[int, tuple[int, ...]] | None = None,
) -> Iterator[Callable[[int, int, np.ndarray], None]]:
    """A tiled TIFF of one band for (height, width) labels; entered, it is a function that writes a part, given its top and
    left. Without rasterio the file is not compressed, and has neither place, nodata nor colours.

    Args:
        nodata: the value of no class.
        colours: of values, RGBA; a TIFF has them for 8 bits only.
    """
    if not has_rasterio():
        whole = tifffile.memmap(path, shape=size, dtype=dtype)

        def store(top, left, labels):
            whole[top : top + labels.shape[0], left : left + labels.shape[1]] = labels

        yield store
        whole.flush()
        return
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.windows import Window

    shape = dict(height=size[0], width=size[1], count=1, dtype=dtype, nodata=nodata)
    layout = dict(tiled=True, blockxsize=256, blockysize=256, compress='deflate', bigtiff='if_safer')
    if colours and np.dtype(dtype) == np.uint8:
        layout['photometric'] = 'palette'
    with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=_CACHE):
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        with rasterio.open(path, 'w', driver='GTiff', **shape, **layout, **profile) as file:
            if 'photometric' in layout:
                file.write_colormap(1, colours)

            def write(top, left, labels):
                file.write(labels, 1, window=Window(left, top, labels.shape[1], labels.shape[0]))

            yield write
