"""Folders, splits and images of a user's data, whatever their format."""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from mmvitscale.datasets.formats.annotations import AnnotatedImage


@dataclass
class Split:
    """Part of a data set: where its images and its ground truth are (a COCO file, or a folder of masks), and its images by
    name, relative to the folder (without suffix for masks).

    labels: the classes in each image, by its name. listed: a file with the names, where the folder holds others. content: what
    a COCO file should hold, where it does not. label_maps: of each name what reads the classes of its pixels, where there are
    no masks of numbers. image_suffix, mask_suffix: what follows a name in the folders of images and masks.
    """

    images: Path
    ground_truth: Path
    names: list[str]
    labels: dict[str, set[Hashable]] = field(default_factory=dict)
    listed: Path | None = None
    content: dict | None = None
    label_maps: dict[str, Callable[[], np.ndarray]] = field(default_factory=dict)
    image_suffix: str = ''
    mask_suffix: str = ''


@dataclass
class InspectedDataset:
    """A data set as it was found.

    task: segmentation, detection or instance. splits: train, and val and test where there are any. size: (height, width)
    of the middle image. smallest: the shortest side of all. most_objects: in one image. zero_is_unknown: masks hold 0 where
    nothing is known, and the classes begin at 1. embedded: images that lie within annotation files, or all where one does, to
    be written as files. lines: what a user wants to know. notes: what a user should look at. invalid: entries left out.
    """

    task: str
    root: Path
    classes: list[str]
    splits: dict[str, Split]
    size: tuple[int, int]
    smallest: int
    most_objects: int = 0
    zero_is_unknown: bool = False
    embedded: list[AnnotatedImage] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)


def middle(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """(height, width) of all images -> the medians."""
    return int(median(height for height, _ in sizes)), int(median(width for _, width in sizes))


def describe_images(splits: dict[str, Split], sizes: Sequence[tuple[int, int]]) -> str:
    """A line of numbers and sizes, (height, width)."""
    counts = ', '.join(f'{len(split.names)} {name}' for name, split in splits.items())
    shortest, longest = min(map(min, sizes)), max(map(max, sizes))
    return f'images: {counts}; {middle(sizes)[0]} x {middle(sizes)[1]} in the middle, sides of {shortest} to {longest}'


def shared_images(some: Iterable[Path], others: Iterable[Path]) -> list[Path]:
    """Those of others whose content is among some. Files of one length are read."""
    by_length: dict[int, list[Path]] = {}
    for path in some:
        by_length.setdefault(path.stat().st_size, []).append(path)
    digests: dict[int, set[str]] = {}
    found = []
    for path in others:
        length = path.stat().st_size
        if length in by_length:
            if length not in digests:
                digests[length] = {_digest(own) for own in by_length[length]}
            if _digest(path) in digests[length]:
                found.append(path)
    return found


def dark_image(paths: Sequence[Path]) -> Path | None:
    """The first of some twenty images with 16 bits a pixel whose values would not fill 12."""
    for path in paths[:: max(1, len(paths) // 20)]:
        with suppress(OSError, ValueError, Image.DecompressionBombError), Image.open(path) as image:
            if image.mode.startswith('I;16') and image.getextrema()[1] < 4096:
                return path
    return None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
