"""Large images by windows: read from files that rasterio opens, label maps written as tiled TIFF with their georeference."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import cv2
import numpy as np

from mmvitscale.errors import InputError
from mmvitscale.inference.images import ImageReader, as_picture

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

    size: (height, width). read: a region -> its image as ``ImageReader.from_array`` takes it. overview: (height, width) ->
        the whole image at that size, (h, w, 3) uint8 BGR. profile: what a file of the same place has, for rasterio.
    """

    def __init__(
        self,
        size: tuple[int, int],
        read: Callable[[Region], np.ndarray],
        overview: Callable[[tuple[int, int]], np.ndarray],
        profile: dict,
    ):
        self.size, self.read, self.overview, self.profile = size, read, overview, profile


@contextmanager
def open_raster(path: Path, reader: ImageReader) -> Iterator[Raster]:
    """TIFF and what else rasterio reads, by windows; other formats, or without rasterio, from the memory. Raises InputError
    for what cannot be read."""
    with ExitStack() as stack:
        yield _windowed(path, reader, stack) if path.suffix.lower() in raster_suffixes() else _whole(path, reader)


def _whole(path: Path, reader: ImageReader) -> Raster:
    if reader.multispectral is not None:
        image = reader.multispectral.read(path)
        picture = reader.multispectral.picture_of(image, path)
    else:
        image = picture = reader(path)

    def read(region):
        top, left, height, width = region
        return image[top : top + height, left : left + width]

    return Raster(image.shape[:2], read, lambda size: cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA), {})


def _windowed(path: Path, reader: ImageReader, stack: ExitStack) -> Raster:
    import rasterio
    from rasterio.enums import ColorInterp, Resampling
    from rasterio.errors import RasterioError
    from rasterio.windows import Window

    stack.enter_context(rasterio.Env(GDAL_CACHEMAX=_CACHE))
    try:
        file = stack.enter_context(rasterio.open(path))
        table = file.colormap(1) if file.colorinterp[0] == ColorInterp.palette else None
    except (RasterioError, ValueError) as error:
        raise InputError(f'{path} cannot be read as an image ({error}); check the file') from error

    def image_of(bands: np.ndarray) -> np.ndarray:
        image = np.moveaxis(bands, 0, -1)
        if reader.multispectral is not None:
            return reader.multispectral.select(image, path)
        if table is not None:
            colours = np.zeros((max(table) + 1, 3), np.uint8)
            for value, colour in table.items():
                colours[value] = colour[:3]
            image = colours[np.minimum(image[..., 0], len(colours) - 1)]
        elif ColorInterp.alpha in file.colorinterp[3:4] and image.dtype == np.uint8:
            # As libtiff, and with it OpenCV, hands colours out: black where nothing is.
            image = ((image[..., :3].astype(np.uint16) * image[..., 3:4] + 127) // 255).astype(np.uint8)
        # Files have red first. A band of its own is grey, a second one alpha.
        return as_picture(image[..., :1] if image.shape[2] < 3 else image[..., 2::-1])

    def bands(**options) -> np.ndarray:
        try:
            return file.read(**options)
        except RasterioError as error:
            raise InputError(f'{path} cannot be read to its end ({error}); check the file') from error

    def read(region):
        top, left, height, width = region
        return image_of(bands(window=Window(left, top, width, height)))

    def overview(size):
        way = Resampling.average if table is None else Resampling.nearest
        image = image_of(bands(out_shape=(file.count, *size), resampling=way))
        return reader.from_array(image, path)[1]

    return Raster((file.height, file.width), read, overview, dict(crs=file.crs, transform=file.transform))


@contextmanager
def label_raster(
    path: Path, size: tuple[int, int], dtype: np.dtype, profile: dict
) -> Iterator[Callable[[int, int, np.ndarray], None]]:
    """A tiled TIFF of one band for (height, width) labels; entered, it is a function that writes a part, given its top and
    left. Without rasterio the file is neither compressed nor has it a place."""
    if not has_rasterio():
        import tifffile

        whole = tifffile.memmap(path, shape=size, dtype=dtype)

        def store(top, left, labels):
            whole[top : top + labels.shape[0], left : left + labels.shape[1]] = labels

        yield store
        whole.flush()
        return
    import warnings

    import rasterio
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.windows import Window

    with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=_CACHE):
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        with rasterio.open(
            path,
            'w',
            driver='GTiff',
            height=size[0],
            width=size[1],
            count=1,
            dtype=dtype,
            tiled=True,
            blockxsize=256,
            blockysize=256,
            compress='deflate',
            bigtiff='if_safer',
            **profile,
        ) as file:

            def write(top, left, labels):
                file.write(labels, 1, window=Window(left, top, labels.shape[1], labels.shape[0]))

            yield write
