"""Annotations that the loss or the evaluation never sees: mmdet's data sets and pycocotools leave them out without a word.

For each annotation of a COCO file the cause, found in the file alone; ``delivered`` counts what a loaded data set delivers, and
``checks`` compares.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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
NO_POLYGON = 'without a polygon of three points (pairs of numbers)'
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
    NO_POLYGON: 'draw polygons of three points or more, or learn boxes alone (--task detection of new_config.py)',
    NO_PIXEL: 'draw the masks again, or learn boxes alone (--task detection of new_config.py)',
    BEYOND: 'clip the boxes to their image: predictions end there, and the evaluation compares with the whole box',
    TOO_LARGE: 'write the area of each object in pixels',
    SMALL_IMAGE: 'lower it with --cfg-options train_dataloader.dataset.filter_cfg.min_size=1',
}
# What pycocotools passes over; what else no prediction can match counts as missed.
_NOT_SCORED = {NOT_LISTED, OTHER_CLASS, CROWD, NO_AREA, TOO_LARGE}


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
    if item['bbox'][2] < 1 or item['bbox'][3] < 1:
        return NO_SIZE
    if not _visible_area(item['bbox'], width, height):
        return OUTSIDE
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
    """What a loss or an evaluation uses of files.

    listed, used: objects by class, in the file and of these those that are used. lost: annotations that are not, by cause.
    names: of categories, by id. images: names of their files. by_class: of those that are lost, how many by class and cause.
    """

    listed: Counter[str]
    used: Counter[str]
    lost: dict[str, list[dict]]
    names: dict[Any, str]
    images: list[str]
    by_class: Counter[tuple[str, str]] = field(default_factory=Counter)

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
                if cause not in (NOT_LISTED, OTHER_CLASS):
                    counts.by_class[names[item['category_id']], cause] += 1
        return counts

    def __add__(self, other: 'Counts') -> 'Counts':
        """Of both files together, as a split has them. Ids are those of their own file."""
        lost = {cause: [*self.lost.get(cause, []), *other.lost.get(cause, [])] for cause in {**self.lost, **other.lost}}
        by_class = self.by_class + other.by_class
        return Counts(
            self.listed + other.listed, self.used + other.used, lost, self.names, self.images + other.images, by_class
        )

    def causes_of(self, name: str) -> dict[str, int]:
        """Causes why annotations of a class are not used, and of how many, the most frequent first."""
        found = Counter({cause: count for (own, cause), count in self.by_class.items() if own == name})
        return dict(found.most_common())

    def check(self, files: Sequence[Path], classes: Sequence[str], training: bool) -> None:
        """Raise InputError where nothing is left of a class that has annotations. In an evaluation that is fine for crowds,
        whose class is not scored then; other classes would be scored with 0 whatever is predicted."""
        where = some_of([str(file) for file in files])
        if training and not self.listed:
            raise InputError(
                f'annotation file {where} has no box of any of the {len(classes)} classes ({some_of(classes)}); check the '
                'file, or the classes of the config'
            )
        empty = [name for name in self.listed if not self.used[name]]
        if not training:
            empty = [name for name in empty if set(self.causes_of(name)) != {CROWD}]
        if not empty:
            return
        causes = self.causes_of(empty[0])
        named = ', '.join(f'{count} {cause}' for cause, count in causes.items())
        others = f' (and {len(empty) - 1} more classes)' if len(empty) > 1 else ''
        what = 'would be learned' if training else 'can be found in the evaluation'
        raise InputError(
            f'none of the {self.listed[empty[0]]} annotations of class {empty[0]}{others} in {where} {what}: {named}; '
            f'{_ADVICE[next(iter(causes))]}, or leave the class out (metainfo.classes; --classes of new_config.py)'
        )

    def notes(self, training: bool) -> list[str]:
        """A line for each cause."""
        found = []
        for cause, items in self.lost.items():
            left_out = (
                'not learned' if training else 'not evaluated' if cause in _NOT_SCORED else 'never found in the evaluation'
            )
            which = sorted({self.names.get(item['category_id'], f'id {item["category_id"]}') for item in items})
            where = some_of(which) if cause == OTHER_CLASS else f'ids {some_of([str(item["id"]) for item in items])}'
            advice = '' if cause == OTHER_CLASS else f'; {_ADVICE[cause]}'  # usually left out on purpose
            found.append(f'{left_out}: {len(items)} annotation{"s" * (len(items) > 1)} {cause} ({where}){advice}')
        return found
