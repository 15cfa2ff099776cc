"""Images in: files, folders and videos, read as the config's own pipeline reads them."""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from mmengine.dataset import Compose

from mmvitscale.datasets.image_size import check_image_size
from mmvitscale.errors import InputError
from mmvitscale.registry import type_name

IMAGE_SUFFIXES = {'.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.gif'}
VIDEO_SUFFIXES = {'.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v'}


@dataclass
class FoundFiles:
    """What a walk through a folder found: files in order, every folder it was in, and a line for each it could not read."""

    files: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def files_below(folder: Path, suffixes: Collection[str]) -> FoundFiles:
    """The files with one of the suffixes at any depth, links to folders followed but where they lead back; what is hidden is
    passed over, as MMEngine's ``scandir`` does."""
    found = FoundFiles()

    def refused(error: OSError) -> None:
        found.failures.append(f'folder {error.filename} cannot be read ({error.strerror}); correct its rights')

    for here, below, names in os.walk(folder, onerror=refused, followlinks=True):
        found.folders.append(Path(here))
        way = _way_to(Path(here), folder)
        below[:] = sorted(name for name in below if name[0] != '.' and Path(os.path.realpath(Path(here, name))) not in way)
        paths = (Path(here, name) for name in names if name[0] != '.')
        found.files += [path for path in paths if path.suffix.lower() in suffixes and path.is_file()]
    found.files.sort()
    return found


def _way_to(here: Path, root: Path) -> set[Path]:
    """The folders that a walk came through, as they are without links, and those around: a link to one of them leads back."""
    walked = [parent for parent in (here, *here.parents) if parent == root or root in parent.parents]
    real = [Path(os.path.realpath(parent)) for parent in walked]
    return {*real, *real[0].parents}


def list_images(path: str, suffixes: Collection[str] = IMAGE_SUFFIXES) -> list[Path]:
    """A file or a folder -> the files in it and in its folders that have one of the suffixes, sorted (``files_below``).
    Raises InputError if there are none."""
    return find_files(path, suffixes).files


def find_files(path: str, suffixes: Collection[str] = IMAGE_SUFFIXES) -> FoundFiles:
    """The same with the folders that were walked through. Raises InputError if there are no files."""
    source = Path(path)
    if source.is_dir():
        found = files_below(source, suffixes)
        if not found.files:
            raise InputError((found.failures or [f'folder {path} holds no image; expected {", ".join(sorted(suffixes))}'])[0])
        return found
    if not source.is_file():
        raise InputError(f'image {path} is not there; give an image or a folder of images')
    return FoundFiles([source])


def as_picture(image: np.ndarray) -> np.ndarray:
    """What a loader made, (H, W) or (H, W, channels) of any type -> (H, W, 3) uint8 BGR: grey three times, without alpha, of
    16 bits the upper 8."""
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    elif image.dtype != np.uint8:
        image = np.clip(image, 0, 255).astype(np.uint8)
    image = image if image.ndim == 3 else image[..., None]
    return np.ascontiguousarray(np.repeat(image[..., :1], 3, axis=2) if image.shape[2] < 3 else image[..., :3])


class ImageReader:
    """Reads images by the first step of a pipeline: greyscale, alpha and 16 bits come out as the model was trained to see
    them.

    Args:
        pipeline: of a data set, whose first step loads the image.
    """

    def __init__(self, pipeline: Sequence[dict]):
        self._step = dict(pipeline[0]) if pipeline else dict(type='LoadImageFromFile')
        self._loader: Compose | None = None
        self.multispectral = None
        if type_name(self._step) == 'LoadMultispectralImage':
            from mmvitscale.datasets.multispectral import LoadMultispectralImage

            options: dict[str, Any] = {k: v for k, v in self._step.items() if k != 'type'}
            self.multispectral = LoadMultispectralImage(**options)

    @property
    def suffixes(self) -> Collection[str]:
        """Of the images it reads."""
        if self.multispectral is None:
            return IMAGE_SUFFIXES
        from mmvitscale.datasets.multispectral import SUFFIXES

        return SUFFIXES

    def __call__(self, path: Path) -> np.ndarray:
        """Path -> the picture that predictions are drawn on, (H, W, 3) uint8 BGR: the image, or three of its channels.
        Raises InputError for what cannot be read."""
        return self.read(path)[1]

    def read(self, path: Path) -> tuple[dict, np.ndarray]:
        """Path -> what the pipeline's next steps take (``img`` and its sizes), and the picture. Raises InputError for what
        cannot be read."""
        path = Path(path)
        if self.multispectral is not None:
            return self.from_array(self.multispectral.read(path), path)
        if not path.is_file():
            raise InputError(f'image {path} is not there; check the path')
        check_image_size(path)
        if self._loader is None:
            import mmcv.transforms  # noqa: F401  registers the loaders

            self._loader = Compose([self._step])
        try:
            fields = self._loader(dict(img_path=str(path), img_id=0))
            return fields, as_picture(fields['img'])
        except Exception as error:  # whatever a damaged file makes the decoders raise
            why = str(error).strip().splitlines()
            raise InputError(
                _unusual_tiff(path)
                or f'{path} cannot be read as an image ({why[-1] if why else type(error).__name__}); check the file'
            ) from error

    def from_array(self, image: np.ndarray, path: Path) -> tuple[dict, np.ndarray]:
        """The same of an image that is in memory: (H, W, 3) uint8 BGR, or the channels of a multispectral one. The path is
        the one that messages name."""
        if self.multispectral is not None:
            picture, image = self.multispectral.picture_of(image, path), image.astype(np.float32)
        else:
            image = picture = as_picture(image)
            if self._step.get('color_type') == 'grayscale':
                image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
            if self._step.get('to_float32'):
                image = image.astype(np.float32)
        size = image.shape[:2]
        return dict(img_path=str(path), img_id=0, img=image, img_shape=size, ori_shape=size), picture


def _unusual_tiff(path: Path) -> str | None:
    """What to say of a TIFF that is sound, but has numbers or channels that OpenCV does not read; None for all others."""
    try:
        with tifffile.TiffFile(path) as file:
            kind, shape, axes = file.series[0].dtype, file.series[0].shape, file.series[0].axes
    except Exception:  # whatever a damaged file makes the reader raise
        return None
    channels = shape[axes.index('S')] if 'S' in axes else 1
    found = f'{kind} numbers' if kind is not None and kind.itemsize > 2 else f'{channels} channels' if channels > 4 else None
    return found and (
        f'{path} holds {found}, but images have integers of 8 or 16 bits in 1 to 4 channels; save it so, or train with '
        'LoadMultispectralImage, which takes any'
    )


def frames_of(path: Path) -> tuple[float, int, Iterator[np.ndarray]]:
    """A video -> frames per second, how many frames its header announces (0: it does not), and the frames, (H, W, 3) uint8 BGR.
    Raises InputError for what is no video."""
    video = cv2.VideoCapture(str(path))
    if not video.isOpened():
        raise InputError(f'{path} cannot be read as a video; check the file')

    def frames():
        try:
            while True:
                there, frame = video.read()
                if not there:
                    return
                yield frame
        finally:
            video.release()

    return video.get(cv2.CAP_PROP_FPS) or 25.0, max(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 0), frames()
