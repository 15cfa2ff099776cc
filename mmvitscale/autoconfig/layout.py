"""Folders, splits and images of a user's data, whatever their format."""

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from PIL import Image

IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
SPLITS = dict(train=('train', 'training'), val=('val', 'valid', 'validation'), test=('test', 'testing'))
MASK_FOLDERS = re.compile(r'mask|label|annotation|segmentation|gtfine|ground', re.IGNORECASE)
_DEPTH = 3  # folders below the given one that are looked into
PART = 'part_of'  # key of a COCO file that was made of another one, beside a config


@dataclass
class Split:
    """Part of a data set: where its images and its ground truth are (a COCO file, or a folder of masks), and its images by
    name, relative to the folder (without suffix for masks).

    labels: the classes in each image, by its name. listed: a file with the names, where the folder holds others. content: what
    a COCO file should hold, where it does not. image_suffix, mask_suffix: what follows a name in the folders of images and
    masks.
    """

    images: Path
    ground_truth: Path
    names: list[str]
    labels: dict[str, set[Hashable]] = field(default_factory=dict)
    listed: Path | None = None
    content: dict | None = None
    image_suffix: str = ''
    mask_suffix: str = ''


@dataclass
class InspectedDataset:
    """A data set as it was found.

    task: segmentation, detection or instance. splits: train, and val and test where there are any. size: (height, width)
    of the middle image. smallest: the shortest side of all. most_objects: in one image. zero_is_unknown: masks hold 0 where
    nothing is known, and the classes begin at 1. lines: what a user wants to know. notes: what a user should look at.
    """

    task: str
    root: Path
    classes: list[str]
    splits: dict[str, Split]
    size: tuple[int, int]
    smallest: int
    most_objects: int = 0
    zero_is_unknown: bool = False
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def is_image(file: Path) -> bool:
    """By its suffix; files that a Mac puts beside images are none."""
    return file.suffix.lower() in IMAGES and not file.name.startswith('._')


def images_below(root: Path) -> Iterator[Path]:
    """In the folder and those below it."""
    return (Path(place, name) for place, _, files in walk(root) for name in files if is_image(Path(name)))


def comparable(name: str) -> str:
    """A name without what file systems and programs change: case, and how accents are written."""
    return unicodedata.normalize('NFC', name).casefold()


def names_in(text: str) -> list[str]:
    """Of a file with a name in each line; quotes around it, and numbers from 0 or 1 on before it, are left out."""
    lines = [line.strip().strip('"').strip() for line in text.splitlines() if line.strip()]
    numbered = [re.fullmatch(r'(\d+)[\s;,:]+(.+)', line) for line in lines]
    numbers = [int(match[1]) for match in numbered if match]
    if len(numbers) == len(lines) and numbers in (list(range(len(lines))), list(range(1, len(lines) + 1))):
        return [match[2].strip().strip('"') for match in numbered if match]
    return lines


def repeated(names: Sequence[str]) -> list[str]:
    """Those that there are twice."""
    return [name for name, count in Counter(names).items() if count > 1]


def split_of(path: Path, root: Path) -> str | None:
    """Which split a file or folder belongs to, by the last part of its name below the root that names one."""
    for part in reversed(path.relative_to(root).parts):
        words = set(re.split(r'[^a-z]+', Path(part).stem.lower()))
        for split, names in SPLITS.items():
            if words & set(names):
                return split
    return None


def folders_of(root: Path) -> list[Path]:
    """The root and the folders below it, down to a few levels. Links are followed, as mmsegmentation does; hidden folders are
    not."""
    return [Path(place) for place, _, _ in walk(root) if len(Path(place).relative_to(root).parts) <= _DEPTH]


def walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """As ``os.walk``, sorted, with linked folders and without hidden ones; a folder that links lead to again is passed over."""
    seen = set()
    for place, folders, files in os.walk(root, followlinks=True):
        key = os.path.realpath(place)
        if key in seen:
            folders.clear()
            continue
        seen.add(key)
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        yield place, folders, sorted(files)


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
