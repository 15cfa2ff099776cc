"""What every annotation format holds, in one plain structure: images with their objects or label maps, classes and splits.

Coordinates are in pixels from the image's top left corner, so that a whole image is the box (0, 0, width, height).
"""

import json
import mmap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from mmvitscale.datasets.coco_masks import encode_mask
from mmvitscale.datasets.image_size import image_size
from mmvitscale.errors import InputError, some_of
from mmvitscale.utils.memory import check_memory_for

Segmentation = list[list[float]] | dict[str, Any]
_KNOWN_LENGTH = 300  # points of a polygon up to which it is looked at for crossings


@dataclass
class AnnotatedObject:
    """An object of an image.

    category: name of its class. box: left, top, right, bottom. segmentation: polygons, each x, y, x, y, ..., or run lengths
    (``counts`` and ``size``) as COCO has them; None for a box alone. crowd: a group of objects. score: of a prediction.
    """

    category: str
    box: tuple[float, float, float, float]
    segmentation: Segmentation | None = None
    crowd: bool = False
    score: float | None = None


@dataclass
class AnnotatedImage:
    """An image and what is known of it.

    path: of its file. name: the path that outputs have for it, relative, with slashes. split: train, val or test, None where
    nobody says. label_map: reads (height, width) uint8, the index of each pixel's class, 255 where it is not known. embedded:
    reads the bytes of an image that lies within an annotation file, and has no file of its own.
    """

    path: Path
    name: str
    height: int
    width: int
    objects: list[AnnotatedObject] = field(default_factory=list)
    split: str | None = None
    label_map: Callable[[], np.ndarray] | None = None
    embedded: Callable[[], bytes] | None = None


@dataclass
class AnnotatedDataset:
    """A data set. classes: their names in order. notes: lines for the user."""

    root: Path
    classes: list[str]
    images: list[AnnotatedImage]
    notes: list[str] = field(default_factory=list)

    def of_split(self, split: str | None) -> list[AnnotatedImage]:
        """The images of a split."""
        return [image for image in self.images if image.split == split]


class Entries:
    """Checks the entries of annotation files, one by one, where they stand.

    Args:
        skip_invalid: leave invalid entries out and list them, in place of refusing the data.
        classes: names in the user's own order, for formats that have none.
    """

    def __init__(self, skip_invalid: bool = False, classes: Sequence[str] | None = None):
        self.skip_invalid, self.classes = skip_invalid, classes
        self.invalid: list[str] = []  # a sentence each
        self.crossing: list[str] = []  # where polygons stand that cross themselves

    @contextmanager
    def entry(self) -> Iterator[None]:
        """Around the reading of one entry: what is wrong with it is kept, and the next one is read."""
        try:
            yield
        except InputError as error:
            self.invalid.append(str(error))

    def check(self) -> None:
        """Raise InputError with the first invalid entry, unless they are left out."""
        if self.invalid and not self.skip_invalid:
            others = len(self.invalid) - 1
            more = f' (and {others} more entries are invalid; --skip-invalid leaves them out and lists them)' if others else ''
            raise InputError(self.invalid[0] + (more or ' (--skip-invalid leaves it out)'))

    def notes(self) -> list[str]:
        """Lines for the user."""
        if not self.crossing:
            return []
        return [
            f'{len(self.crossing)} polygons cross themselves (the first: {self.crossing[0]}), so that parts of them may count '
            'as outside; draw them again'
        ]

    def size(self, path: Path, stated: tuple[Any, Any] | None, where: str) -> tuple[int, int]:
        """(height, width) of an image. Raises InputError where the annotations state another one (height, width)."""
        found = image_size(path)
        if stated is not None and tuple(stated) != found:
            turned = tuple(stated) == found[::-1]
            raise InputError(
                f'{where} says that {path.name} is {stated[1]} x {stated[0]}, but it is {found[1]} x {found[0]}'
                f'{" (turned, by its EXIF orientation perhaps)" if turned else ""}; annotate the image as it is now'
            )
        return found

    def object(
        self,
        where: str,
        size: tuple[int, int],
        category: Any,
        box: Sequence[float] | None = None,
        polygons: Sequence[Sequence[float]] | None = None,
        mask: tuple[np.ndarray, tuple[int, int]] | None = None,
        score: float | None = None,
    ) -> AnnotatedObject:
        """An object from what a format has of it: a box (left, top, right, bottom), or polygons, or a mask.

        Args:
            where: file, line or key.
            size: (height, width) of the image.
            category: name of the class.
            mask: (h, w) bool, and the left and top of its corner in the image.

        Raises:
            InputError: for what is no name, not finite, of no area or outside the image.
        """
        name = checked_name(category, where)
        if score is not None and not 0 <= score <= 1:
            raise InputError(f'{where} has the confidence {score:g}, but it is a number from 0 to 1; correct it')
        segmentation: Segmentation | None = None
        if mask is not None:
            segmentation, box = self._mask(mask, size, where)
        elif polygons is not None:
            segmentation = [self._polygon(points, where) for points in polygons]
            x, y = ([v for part in segmentation for v in part[axis::2]] for axis in (0, 1))
            box = min(x), min(y), max(x), max(y)
        assert box is not None
        left, top, right, bottom = _numbers(box, where)
        found = f'{where} has the box left {left:g}, top {top:g}, right {right:g}, bottom {bottom:g}'
        if right <= left or bottom <= top:
            raise InputError(f'{found}, which has no area; draw it again or remove it')
        if right <= 0 or bottom <= 0 or left >= size[1] or top >= size[0]:
            raise InputError(f'{found}, outside its image of {size[1]} x {size[0]}; correct or remove it')
        return AnnotatedObject(name, (left, top, right, bottom), segmentation, score=score)

    def _polygon(self, points: Sequence[float], where: str) -> list[float]:
        numbers = _numbers(points, where)
        if len(numbers) < 6 or len(numbers) % 2:
            raise InputError(
                f'{where} has a polygon of {len(numbers) / 2:g} points, but it takes three or more; draw it again or remove it'
            )
        if crosses_itself(numbers):
            self.crossing.append(where)
        return numbers

    @staticmethod
    def _mask(mask: tuple[np.ndarray, tuple[int, int]], size: tuple[int, int], where: str) -> tuple[dict, tuple]:
        part, (left, top) = mask
        if left < 0 or top < 0 or left + part.shape[1] > size[1] or top + part.shape[0] > size[0]:
            raise InputError(
                f'{where} has a mask of {part.shape[1]} x {part.shape[0]} pixels at {left}, {top}, beyond its image of '
                f'{size[1]} x {size[0]}; export the mask again'
            )
        rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
        if not len(rows):
            raise InputError(f'{where} has a mask without a pixel; draw it again or remove it')
        box = (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)
        return encode_mask(part, (left, top), size), tuple(float(side) for side in box)


def _numbers(values: Sequence[Any], where: str) -> list[float]:
    """Finite numbers. Raises InputError for what is none."""
    wrong = [v for v in values if not isinstance(v, (int, float)) or isinstance(v, bool) or not isfinite(v) or abs(v) > 1e9]
    if wrong:
        raise InputError(f'{where} has the coordinate {str(wrong[0])[:40]!r}, but coordinates are finite numbers; correct it')
    return [float(value) for value in values]


def checked_name(name: Any, where: str) -> str:
    """The name of a class. Raises InputError for what is none, or has several lines."""
    if not isinstance(name, str) or not name.strip() or set(name) & {'\n', '\r', '\0'}:
        raise InputError(f'{where} has the class {str(name)[:60]!r}, but a class is a name on one line; correct it')
    return name.strip()


def crosses_itself(polygon: Sequence[float]) -> bool:
    """Whether two sides of a polygon x, y, x, y, ... cross, apart from those with a common corner. Of very long ones nothing
    is said."""
    points = np.asarray(polygon, float).reshape(-1, 2)
    n = len(points)
    if not 4 <= n <= _KNOWN_LENGTH:
        return False
    ends = np.roll(points, -1, 0)

    def side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        return np.sign((b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (c[..., 0] - a[..., 0]))

    first, second = np.triu_indices(n, 2)
    apart = ~((first == 0) & (second == n - 1))
    a, b, c, d = points[first[apart]], ends[first[apart]], points[second[apart]], ends[second[apart]]
    return bool(((side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)).any())


def ordered_classes(found: Sequence[str], listed: Sequence[str] | None, entries: Entries, source: str) -> list[str]:
    """Names of the classes: in the order that the user gives, or a file lists, or alphabetically.

    Args:
        found: names of all objects.
        listed: of the file ``source``; None where there is none.

    Raises:
        InputError: for objects whose class is not among those listed.
    """
    used = Counter(found)
    if listed is None:
        names = sorted(used)
        return list(entries.classes) if entries.classes and set(names) <= set(entries.classes) else names
    unknown = sorted(set(used) - set(listed))
    if unknown:
        raise InputError(
            f'{used[unknown[0]]} objects have the class {some_of(unknown)}, but {source} lists {some_of(list(listed))}; add '
            'the name there, or correct the objects'
        )
    return list(listed)


def read_text(path: Path) -> str:
    """A text file of annotations in UTF-8, with or without byte order mark. Raises InputError for what is none."""
    check_memory_for(path)
    try:
        return path.read_text('utf-8-sig')
    except UnicodeDecodeError as error:
        raise InputError(f'{path} is not UTF-8 text ({error.reason}); save it as UTF-8') from error
    except OSError as error:
        raise InputError(f'{path} cannot be read ({error.strerror}); check the file and its rights') from error


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises InputError for what is none, or would fill the memory."""
    try:
        return json.loads(read_text(path))
    except (RecursionError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f'{path} is not JSON in UTF-8 ({error}); export it again') from error


def mentions(path: Path, *keys: bytes) -> bool:
    """Whether a file holds all these bytes, without reading it into the memory."""
    try:
        with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return all(content.find(key) >= 0 for key in keys)
    except (OSError, ValueError):  # not to be read, or empty
        return False


def starts_with(path: Path, sign: bytes) -> bool:
    """Whether the first character of a text file, spaces and a byte order mark aside, is this one."""
    try:
        with open(path, 'rb') as file:
            return file.read(256).removeprefix(b'\xef\xbb\xbf').lstrip()[:1] == sign
    except OSError:
        return False
