"""Annotations that the loss or the evaluation never sees: mmdet's data sets and pycocotools leave them out without a word.

For each annotation of a COCO file the cause, found in the file alone; ``delivered`` counts what a loaded data set delivers, and
``checks`` compares.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmvitscale.datasets.coco_masks import has_pixels, polygons_of
from mmvitscale.errors import InputError, some_of

# The largest area that pycocotools counts.
_LARGEST = 1e10
_BOXES = 'a bbox is [left, top, width, height] in pixels: correct them'
# Why an annotation is left out -> what to do.
NOT_LISTED = 'of images that are not listed'
OTHER_CLASS = 'of categories that are no class of the config'
IGNORED = 'marked ignore'
CROWD = 'marked iscrowd'
OUTSIDE = 'with a box outside the image'
NO_SIZE = 'with a box of less than a pixel'
NO_AREA = 'with an area of 0 or less'
NO_POLYGON = 'without a polygon of three points'
NO_PIXEL = 'with a mask of no pixel'
BEYOND = 'with a box of which more than half is beyond the image'
TOO_LARGE = 'with an area above 1e10'
SMALL_IMAGE = 'in images smaller than min_size of filter_cfg'
_ADVICE = {
    NOT_LISTED: 'list the images, too',
    OTHER_CLASS: 'correct the category ids, or the classes',
    IGNORED: 'set ignore to 0',
    CROWD: 'set iscrowd to 0 where an annotation is a single object',
    OUTSIDE: _BOXES,
    NO_SIZE: _BOXES,
    NO_AREA: 'write the area of each object in pixels',
    NO_POLYGON: 'draw polygons of three points or more, or take a config for boxes',
    NO_PIXEL: 'draw the masks again, or take a config for boxes',
    BEYOND: 'clip the boxes to their image: predictions end there, and the evaluation compares with the whole box',
    TOO_LARGE: 'write the area of each object in pixels',
    SMALL_IMAGE: 'lower it with --cfg-options train_dataloader.dataset.filter_cfg.min_size=1',
}


@dataclass(frozen=True)
class Use:
    """How a data set uses a COCO file.

    training: in the loss, otherwise in the evaluation. with_mask: masks, not boxes alone. min_size: shorter sides of images
    below it are left out of a training (``filter_cfg``).
    """

    training: bool
    with_mask: bool = False
    min_size: float = 0


def find_losses(content: dict, classes: Sequence[str], use: Use) -> Iterator[tuple[dict, str | None]]:
    """Every annotation of a file whose entries have been checked, with the cause why the loss (as mmdet's CocoDataset and
    LoadAnnotations deliver it) or the evaluation (pycocotools) never sees it; None: it does."""
    of_classes = {category['id'] for category in content['categories'] if category['name'] in classes}
    sizes = {image['id']: (image['width'], image['height']) for image in content['images']}
    for item in content.get('annotations', []):
        if item['image_id'] not in sizes:
            yield item, NOT_LISTED
        elif item['category_id'] not in of_classes:
            yield item, OTHER_CLASS
        elif use.training:
            yield item, _cause_in_training(item, *sizes[item['image_id']], use)
        else:
            yield item, _cause_in_evaluation(item, *sizes[item['image_id']], use)


def _cause_in_training(item: dict, width: float, height: float, use: Use) -> str | None:
    if min(width, height) < use.min_size:
        return SMALL_IMAGE
    if item.get('ignore'):
        return IGNORED
    if not _visible_area(item['bbox'], width, height):
        return OUTSIDE
    if item['bbox'][2] < 1 or item['bbox'][3] < 1:
        return NO_SIZE
    if item['area'] <= 0:
        return NO_AREA
    if item.get('iscrowd'):
        return CROWD
    mask = item.get('segmentation')
    if use.with_mask and isinstance(mask, list) and mask and not polygons_of(mask):
        return NO_POLYGON
    return None


def _cause_in_evaluation(item: dict, width: float, height: float, use: Use) -> str | None:
    if item.get('iscrowd'):
        return CROWD
    if not 0 <= item['area'] <= _LARGEST:
        return NO_AREA if item['area'] < 0 else TOO_LARGE
    area = item['bbox'][2] * item['bbox'][3]
    if not area:
        return NO_SIZE
    visible = _visible_area(item['bbox'], width, height)
    if visible < area / 2:  # no IoU of 0.5 with what lies inside
        return BEYOND if visible else OUTSIDE
    mask = item.get('segmentation')
    if use.with_mask and mask:
        if isinstance(mask, list) and not polygons_of(mask):
            return NO_POLYGON
        if not has_pixels(mask, int(height), int(width)):
            return NO_PIXEL
    return None


def _visible_area(box: Sequence[float], width: float, height: float) -> float:
    """Of a box, left, top, width, height, the part inside the image."""
    left, top, w, h = box
    return max(0, min(left + w, width) - max(left, 0)) * max(0, min(top + h, height) - max(top, 0))


@dataclass
class Counts:
    """Objects by class, in a file (``listed``), and of these those that are used (``used``); annotations that are not, by
    cause; names of categories by id, and of the images' files."""

    listed: Counter[str]
    used: Counter[str]
    lost: dict[str, list[dict]]
    names: dict[Any, str]
    images: list[str]

    @classmethod
    def of(cls, content: dict, classes: Sequence[str], use: Use) -> 'Counts':
        """Of a file whose entries have been checked."""
        names = {category['id']: category['name'] for category in content['categories']}
        counts = cls(Counter(), Counter(), {}, names, [image['file_name'] for image in content['images']])
        for item, cause in find_losses(content, classes, use):
            if cause not in (NOT_LISTED, OTHER_CLASS):
                counts.listed[names[item['category_id']]] += 1
            if cause is None:
                counts.used[names[item['category_id']]] += 1
            else:
                counts.lost.setdefault(cause, []).append(item)
        return counts

    def causes_of(self, name: str) -> dict[str, int]:
        """Causes why annotations of a class are not used, and of how many, the most frequent first."""
        found = Counter(
            {
                cause: sum(self.names.get(item['category_id']) == name for item in items)
                for cause, items in self.lost.items()
                if cause not in (NOT_LISTED, OTHER_CLASS)
            }
        )
        return {cause: count for cause, count in found.most_common() if count}

    def check(self, ann_file: Path, training: bool) -> None:
        """Raise InputError where a class has annotations and none of them is used."""
        empty = [name for name in self.listed if not self.used[name]]
        if not empty:
            return
        causes = self.causes_of(empty[0])
        named = ', '.join(f'{count} {cause}' for cause, count in causes.items())
        others = f' (and {len(empty) - 1} more classes)' if len(empty) > 1 else ''
        what = 'would be learned' if training else 'would count in the evaluation'
        raise InputError(
            f'none of the {self.listed[empty[0]]} annotations of class {empty[0]}{others} in {ann_file} {what}: {named}; '
            f'{_ADVICE[next(iter(causes))]}, or leave the class out of metainfo.classes'
        )

    def notes(self, training: bool) -> list[str]:
        """A line for each cause."""
        left_out, found = 'not learned' if training else 'not counted in the evaluation', []
        for cause, items in self.lost.items():
            which = sorted({self.names.get(item['category_id'], f'id {item["category_id"]}') for item in items})
            where = some_of(which) if cause == OTHER_CLASS else f'ids {some_of([str(item["id"]) for item in items])}'
            advice = '' if cause == OTHER_CLASS else f'; {_ADVICE[cause]}'  # usually left out on purpose
            found.append(f'{left_out}: {len(items)} annotation{"s" * (len(items) > 1)} {cause} ({where}){advice}')
        return found
