"""Polygons of masks and masks of polygons, to the pixel."""

from collections.abc import Sequence
from math import cos, pi, sin
from typing import Any

import numpy as np

from mmvitscale.datasets.coco_masks import coco_api, encode_mask, polygons_of
from mmvitscale.datasets.formats.annotations import AnnotatedImage, AnnotatedObject
from mmvitscale.errors import InputError

_ELLIPSE_SIDES = 64
_PAIRS = 10**6  # of corners, of which the nearest are looked for
# Names of what is around the objects.
BACKGROUND = ('background', '_background_')


def mask_of(item: AnnotatedObject, height: int, width: int) -> np.ndarray:
    """(height, width) bool of an object; of a box alone the pixels in it."""
    if item.segmentation is None:
        left, top, right, bottom = item.box
        inside = np.zeros((height, width), bool)
        inside[max(0, round(top)) : max(0, round(bottom)), max(0, round(left)) : max(0, round(right))] = True
        return inside
    return coco_api().decode(_coded(item.segmentation, height, width)).astype(bool)


def area_of(item: AnnotatedObject, height: int, width: int) -> int:
    """Pixels of an object with a mask, without drawing it."""
    return int(coco_api().area(_coded(item.segmentation or [], height, width)))


def _coded(segmentation: Any, height: int, width: int) -> Any:
    """Run lengths as pycocotools has them."""
    coco = coco_api()
    if isinstance(segmentation, dict):
        return coco.frPyObjects(segmentation, height, width) if isinstance(segmentation['counts'], list) else segmentation
    return coco.merge(coco.frPyObjects([list(part) for part in polygons_of(segmentation)], height, width))


def turned_around(x: float, y: float, offsets: Sequence[tuple[float, float]], angle: float) -> list[float]:
    """Polygon of points at offsets from (x, y), turned around it by an angle in radians, clockwise on the screen."""
    c, s = cos(angle), sin(angle)
    return [v for dx, dy in offsets for v in (x + c * dx - s * dy, y + s * dx + c * dy)]


def ellipse(x: float, y: float, across: float, down: float, angle: float = 0.0) -> list[float]:
    """Polygon of an ellipse around (x, y) with these radii, turned by an angle in radians."""
    steps = [2 * pi * i / _ELLIPSE_SIDES for i in range(_ELLIPSE_SIDES)]
    return turned_around(x, y, [(across * cos(step), down * sin(step)) for step in steps], angle)


def crop_of(mask: np.ndarray) -> tuple[np.ndarray, int, int]:
    """The part of a mask that its pixels take, and its left and top; of none (0, 0) pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return mask[:0, :0], 0, 0
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], int(columns[0]), int(rows[0])


def outlines(mask: np.ndarray) -> list[list[float]]:
    """(H, W) bool -> polygons x, y, ... along the edges of its pixels: outer ones clockwise, those of holes the other way
    round, so that all of them in one path are the mask again."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    ends: dict[tuple[int, int], list[tuple[int, int]]] = {}
    sides = (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),  # top, left to right
        (padded[1:-1, 2:], (1, 0), (1, 1)),  # right, down
        (padded[2:, 1:-1], (1, 1), (0, 1)),
        (padded[1:-1, :-2], (0, 1), (0, 0)),
    )
    for beside, start, end in sides:
        for y, x in zip(*(axis.tolist() for axis in np.nonzero(inside & ~beside))):
            ends.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))
    found = []
    while ends:
        first = next(iter(ends))
        path, point = [first], first
        while True:
            following = ends[point].pop()
            if not ends[point]:
                del ends[point]
            if following == first:
                break
            if len(path) > 1 and (following[0] == path[-2][0] or following[1] == path[-2][1]):
                path[-1] = following  # straight on
            else:
                path.append(following)
            point = following
        found.append([float(value) for corner in path for value in corner])
    return found


def join_polygons(polygons: Sequence[Sequence[float]]) -> list[float]:
    """Several polygons as one path, along lines without area between their nearest corners."""
    joined = np.asarray(polygons[0], float).reshape(-1, 2)
    for polygon in polygons[1:]:
        other = np.asarray(polygon, float).reshape(-1, 2)
        here, there = -1, 0
        if len(joined) * len(other) <= _PAIRS:
            apart = ((joined[:, None] - other[None]) ** 2).sum(-1)
            here, there = (int(i) for i in np.unravel_index(int(apart.argmin()), apart.shape))
        here %= len(joined)
        around = np.concatenate([np.roll(other, -there, 0), other[there : there + 1]])
        joined = np.concatenate([joined[: here + 1], around, joined[here:]])
    return joined.flatten().tolist()


def join_objects(first: AnnotatedObject, other: AnnotatedObject, size: tuple[int, int]) -> None:
    """Make the first of two parts of an object both. size: (height, width) of the image."""
    if isinstance(first.segmentation, list) and isinstance(other.segmentation, list):
        first.segmentation += other.segmentation
    elif first.segmentation is not None and other.segmentation is not None:
        first.segmentation = encode_mask(mask_of(first, *size) | mask_of(other, *size))
    first.box = (
        min(first.box[0], other.box[0]),
        min(first.box[1], other.box[1]),
        max(first.box[2], other.box[2]),
        max(first.box[3], other.box[3]),
    )


def polygons_of_object(item: AnnotatedObject, height: int, width: int) -> list[list[float]]:
    """The polygons of an object with a mask, those of run lengths along the edges of their pixels."""
    if isinstance(item.segmentation, dict):
        return outlines(mask_of(item, height, width))
    return [list(part) for part in polygons_of(item.segmentation or [])]


def label_map_of(image: AnnotatedImage, classes: Sequence[str], background: int | None) -> np.ndarray:
    """(height, width) uint8, the index of each pixel's class: an image's label map, or its objects drawn one over the other in
    their order. background: index where there is no object; None: 255, not known."""
    if image.label_map is not None:
        return image.label_map()
    if len(classes) > 255:
        raise InputError(f'{len(classes)} classes found, but label maps of 8 bits have 255; leave some out with --classes')
    drawn = np.full((image.height, image.width), 255 if background is None else background, np.uint8)
    for item in image.objects:
        drawn[mask_of(item, image.height, image.width)] = classes.index(item.category)
    return drawn


def objects_of(image: AnnotatedImage, classes: Sequence[str]) -> list[AnnotatedObject]:
    """The objects of an image; of a label map one for each class but the background, with the mask of its pixels."""
    if image.label_map is None:
        return image.objects
    labels = image.label_map()
    found = []
    for label in np.unique(labels).tolist():
        if label < len(classes) and classes[label].lower() not in BACKGROUND:
            mask = labels == label
            part, left, top = crop_of(mask)
            box = (float(left), float(top), float(left + part.shape[1]), float(top + part.shape[0]))
            found.append(AnnotatedObject(classes[label], box, encode_mask(mask)))
    return found
