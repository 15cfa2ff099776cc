"""Images in: files, folders and videos, read as the config's own pipeline reads them."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.dataset import Compose

from mmvitscale.datasets.image_size import check_image_size
from mmvitscale.errors import InputError
from mmvitscale.registry import type_name

IMAGE_SUFFIXES = {'.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp'}
VIDEO_SUFFIXES = {'.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v'}


def list_images(path: str, suffixes: Collection[str] = IMAGE_SUFFIXES) -> list[Path]:
    """A file or a folder -> the files in it and in its folders that have one of the suffixes, sorted. Hidden files and
    folders are passed over. Raises InputError if there are none."""
    path = Path(path)
    if path.is_dir():
        images = sorted(
            p
            for p in path.rglob('*')
            if p.suffix.lower() in suffixes
            and p.is_file()
            and not any(part.startswith('.') for part in p.relative_to(path).parts)
        )
        if not images:
            raise InputError(f'folder {path} holds no image; expected {", ".join(sorted(suffixes))}')
        return images
    if not path.is_file():
        raise InputError(f'image {path} is not there; give an image or a folder of images')
    return [path]


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
                f'{path} cannot be read as an image ({why[-1] if why else type(error).__name__}); check the file'
            ) from error

    def from_array(self, image: np.ndarray, path: Path) -> tuple[dict, np.ndarray]:
        """The same of an image that is in memory: (H, W, 3) uint8 BGR, or the channels of a multispectral one. The path is
        the one that messages name."""
        if self.multispectral is not None:
            picture, image = self.multispectral.picture_of(image, path), image.astype(np.float32)
        else:
            image = picture = as_picture(image)
            if self._step.get('to_float32'):
                image = image.astype(np.float32)
        size = image.shape[:2]
        return dict(img_path=str(path), img_id=0, img=image, img_shape=size, ori_shape=size), picture


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
