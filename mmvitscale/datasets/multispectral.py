"""Images of any number of channels: multispectral, or colour with depth or infrared, from TIFF and NPY files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from mmcv.transforms import BaseTransform

from mmvitscale.datasets.image_size import check_image_size
from mmvitscale.errors import InputError
from mmvitscale.registry import TRANSFORMS

SUFFIXES = {'.tif', '.tiff', '.npy'}


def read_channels(path: Path, channel_axis: int = -1) -> np.ndarray:
    """Path of a .tif, .tiff or .npy file -> (H, W, C) array of its own type; a single channel has C = 1.

    Args:
        path: of a TIFF, which says itself which axis holds the channels, or of an array.
        channel_axis: of an array in a .npy file: -1 or 0.

    Raises:
        InputError: for what cannot be read, has no two or three axes, or holds infinities or NaN.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f'image {path} is not there; check the path')
    check_image_size(path)
    try:
        if path.suffix.lower() == '.npy':
            array, axis = np.load(path, allow_pickle=False), channel_axis
        else:
            with tifffile.TiffFile(path) as file:
                array, axes = file.series[0].asarray(), file.series[0].axes
            axis = -1 if array.ndim < 3 or axes[:2] == 'YX' else 0
        if not isinstance(array, np.ndarray):
            raise ValueError(f'it holds a {type(array).__name__}')
    except Exception as error:  # whatever a damaged file makes the readers raise
        if 'imagecodecs' in str(error):
            raise InputError(
                f'{path} is compressed in a way that needs another package; install it: pip install '
                'imagecodecs, or save the file without compression'
            ) from error
        raise InputError(
            f'{path} cannot be read as an image of several channels ({error}); give a .tif or .npy file'
        ) from error
    if array.ndim == 2:
        array, axis = array[..., None], -1
    if array.ndim != 3 or array.size == 0 or array.dtype.kind not in 'buif':
        raise InputError(
            f'{path} holds an array of shape {array.shape} and type {array.dtype}, but an image has rows, '
            'columns and channels of numbers'
        )
    array = np.moveaxis(array.astype(np.uint8) if array.dtype == bool else array, axis, -1)
    if not (np.abs(array.astype(np.float64)) <= np.finfo(np.float32).max).all():
        raise InputError(f'{path} holds infinities, NaN or numbers beyond float32; fill the missing pixels first')
    return array


def _are_indices(value) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(isinstance(n, int) and n >= 0 for n in value)


@TRANSFORMS.register_module()
class LoadMultispectralImage(BaseTransform):
    """Path of a TIFF or NPY file -> ``img`` (H, W, C) float32 with as many channels as are asked for.

    Args:
        channels: how many there must be, or which to take, in this order; None takes all.
        channel_axis: of arrays in .npy files, -1 for (H, W, C) or 0 for (C, H, W).
        show: the three channels that pictures show as red, green and blue, counted among those taken; (0, 0, 0) for one.
    """

    def __init__(self, channels: None | int | Sequence[int] = None, channel_axis: int = -1, show: Sequence[int] = (0, 1, 2)):
        self.channels = channels
        self.channel_axis = channel_axis
        if not (channels is None or isinstance(channels, int) and channels > 0 or _are_indices(channels)):
            raise InputError(
                f'LoadMultispectralImage got channels={channels!r}, but it is how many there are, or a list of '
                'which to take, counted from 0'
            )
        self.show = tuple(show) if _are_indices(show) else ()
        if len(self.show) != 3 or channel_axis not in (-1, 0):
            raise InputError(
                f'LoadMultispectralImage got show={show} and channel_axis={channel_axis}, but pictures show '
                'three channels, and the channels of an array come first (0) or last (-1)'
            )

    def transform(self, results: dict) -> dict:
        """Fills ``img``, ``img_shape`` and ``ori_shape`` from ``img_path``."""
        results['img'] = self.read(results['img_path']).astype(np.float32)
        results['img_shape'] = results['ori_shape'] = results['img'].shape[:2]
        return results

    def read(self, path: Path) -> np.ndarray:
        """(H, W, C) of the file's own type, the channels asked for. Raises InputError if it has others."""
        return self.select(read_channels(path, self.channel_axis), path)

    def select(self, image: np.ndarray, path: Path) -> np.ndarray:
        """The channels asked for of (H, W, C). Raises InputError if it has others."""
        found = image.shape[2]
        if isinstance(self.channels, int) and found != self.channels:
            raise InputError(
                f'{path} has {found} channels, but the config says {self.channels}; correct channels of '
                'LoadMultispectralImage and in_channels of the backbone, or the file'
            )
        if isinstance(self.channels, (list, tuple)):
            if not all(0 <= channel < found for channel in self.channels):
                raise InputError(
                    f'{path} has {found} channels, but the config takes {list(self.channels)}; correct '
                    'channels of LoadMultispectralImage'
                )
            image = image[..., list(self.channels)]
        return image

    def picture_of(self, image: np.ndarray, path: Path) -> np.ndarray:
        """What ``read`` gave -> (H, W, 3) uint8 BGR of the three channels that are shown. Other types than uint8 are
        stretched, each channel from its 2nd to its 98th percentile."""
        if max(self.show) >= image.shape[2]:
            raise InputError(
                f'{path} has {image.shape[2]} channels, but pictures are to show {list(self.show)}; correct '
                'show of LoadMultispectralImage'
            )
        shown = image[..., list(self.show[::-1])]
        if shown.dtype == np.uint8:
            return np.ascontiguousarray(shown)
        low, high = np.percentile(shown, (2, 98), axis=(0, 1))
        stretched = (shown.astype(np.float64) - low) / np.maximum(high - low, np.finfo(np.float32).eps)
        return (255 * stretched.clip(0, 1)).round().astype(np.uint8)


@TRANSFORMS.register_module()
class NormalizeChannels(BaseTransform):
    """``img`` (H, W, C) -> (img - mean) / std in float32, for any number of channels.

    OpenMMLab's data preprocessors take means of 1 or 3 channels. Pipelines with this step set ``mean=None``, ``std=None``
    and ``bgr_to_rgb=False`` there.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        try:
            self.mean, self.std = np.float32(mean), np.float32(std)
            fits = (
                self.mean.ndim == 1
                and self.mean.shape == self.std.shape
                and np.isfinite(self.mean).all()
                and (self.std > 0).all()
                and np.isfinite(self.std).all()
            )
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise InputError(
                f'NormalizeChannels got the mean {mean} and the std {std}, but both have one number per '
                'channel, and no std is 0'
            )

    def transform(self, results: dict) -> dict:
        """Normalises ``img``."""
        image = results['img']
        if image.shape[-1] != self.mean.size:
            raise InputError(
                f'{results.get("img_path", "an image")} has {image.shape[-1]} channels, but NormalizeChannels '
                f'has {self.mean.size} means; make them equal'
            )
        results['img'] = (image.astype(np.float32) - self.mean) / self.std
        return results
