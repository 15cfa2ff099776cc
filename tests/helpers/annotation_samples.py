"""Pictures of the synthetic mini dataset with all that annotation formats hold of them: boxes, polygons, masks, label maps.

Nothing of ``mmvitscale.datasets.formats`` is used here, nor in the writers: they follow the formats' public descriptions.
"""

from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np

from mmvitscale.datasets.mini import OBJECTS, draw_scene

HEIGHT, WIDTH = 64, 96
OBJECT_CLASSES = tuple(OBJECTS)
SPLITS = ('train',) * 5 + ('val',) * 2 + ('test',)
EMPTY = (2, 6)  # pictures without objects
UNKNOWN = 255
SEED = 1

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Shape:
    """An object: its name, its (H, W) bool mask, and polygons of its parts, the largest first."""

    name: str
    mask: np.ndarray
    parts: tuple[Points, ...]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of the mask in pixels, the last two exclusive."""
        return mask_box(self.mask)


@dataclass(frozen=True)
class Picture:
    """file: name, e.g. scene_00000.jpg. content: of the file. labels: (H, W) uint8, index of CLASSES or 255."""

    file: str
    split: str
    content: bytes
    labels: np.ndarray
    shapes: tuple[Shape, ...]

    @property
    def stem(self) -> str:
        return self.file.rpartition('.')[0]


@dataclass(frozen=True)
class Expected:
    """What must be read of an object; mask is None where a box alone is known."""

    name: str
    box: tuple[float, ...]
    mask: np.ndarray | None = None


def mask_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def extent(parts) -> tuple[float, float, float, float]:
    """Box around polygons."""
    x, y = zip(*(point for part in parts for point in part))
    return min(x), min(y), max(x), max(y)


def filled(parts, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(H, W) bool of polygons, as COCO fills them."""
    from pycocotools import mask as coco

    flat = [[float(v) for point in part for v in point] for part in parts]
    return coco.decode(coco.merge(coco.frPyObjects(flat, height, width))).astype(bool)


def _polygons(mask: np.ndarray) -> tuple[Points, ...]:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    contours = sorted((c for c in contours if len(c) > 3 and cv2.contourArea(c) >= 20), key=cv2.contourArea, reverse=True)
    return tuple(tuple((x + 0.55, y + 0.6) for x, y in contour[:, 0].tolist()) for contour in contours)


def encoded(image: np.ndarray, suffix: str) -> bytes:
    return cv2.imencode(suffix.lower(), image)[1].tobytes()


@cache
def sample() -> tuple[Picture, ...]:
    """Eight pictures; their names are in the order of their splits: train, val, test."""
    pictures = []
    for number, split in enumerate(SPLITS):
        scene = draw_scene(WIDTH, np.random.default_rng([SEED, number]))
        image, labels = scene.image[:HEIGHT], scene.labels[:HEIGHT]
        shapes = []
        for instance in scene.instances:
            mask = instance.mask[:HEIGHT]
            parts = _polygons(mask)
            if parts and number not in EMPTY:
                shapes.append(Shape(instance.name, mask, parts))
        suffix = '.png' if number % 4 == 3 else '.jpg'
        labels = np.where(labels == 0, UNKNOWN, labels - 1).astype(np.uint8)
        name = f'scene_{number:05d}{suffix}'
        pictures.append(Picture(name, split, encoded(image, suffix), labels, tuple(shapes)))
    assert {shape.name for picture in pictures for shape in picture.shapes} == set(OBJECT_CLASSES)
    assert any(UNKNOWN in picture.labels for picture in pictures)
    assert any(len(shape.parts) > 1 for picture in pictures for shape in picture.shapes)
    return tuple(pictures)


@cache
def of_one_kind() -> tuple[Picture, ...]:
    """The sample, all of it as JPEG."""
    import io

    from PIL import Image

    pictures = []
    for picture in sample():
        content = picture.content
        if not picture.file.endswith('.jpg'):
            target = io.BytesIO()
            Image.open(io.BytesIO(content)).save(target, 'JPEG')
            content = target.getvalue()
        pictures.append(replace(picture, file=f'{picture.stem}.jpg', content=content))
    return tuple(pictures)


def boxes(picture: Picture) -> list[Expected]:
    return [Expected(shape.name, shape.box) for shape in picture.shapes]


def polygons(picture: Picture) -> list[Expected]:
    """Of the largest part of each object."""
    return [Expected(shape.name, extent(shape.parts[:1]), filled(shape.parts[:1])) for shape in picture.shapes]


def grouped(picture: Picture) -> list[Expected]:
    """Objects of several parts."""
    return [Expected(shape.name, extent(shape.parts), filled(shape.parts)) for shape in picture.shapes]


def masks(picture: Picture) -> list[Expected]:
    return [Expected(shape.name, shape.box, shape.mask) for shape in picture.shapes]


def circle_of(shape: Shape) -> tuple[float, float, float]:
    """x, y, radius of a circle in the middle of an object's box."""
    left, top, right, bottom = shape.box
    return (left + right) / 2, (top + bottom) / 2, 12.0


def disc(x: float, y: float, radius_x: float, radius_y: float, rotation: float = 0) -> np.ndarray:
    """(H, W) bool: pixels whose centres are in an ellipse, turned clockwise by degrees."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    turn = np.deg2rad(rotation)
    u = np.cos(turn) * (columns - x) + np.sin(turn) * (rows - y)
    v = np.cos(turn) * (rows - y) - np.sin(turn) * (columns - x)
    return (u / radius_x) ** 2 + (v / radius_y) ** 2 <= 1
