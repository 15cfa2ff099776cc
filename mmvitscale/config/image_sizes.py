"""Whether all training images of a config have one size when they reach the network, by its data pipeline."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmengine.config import Config

from mmvitscale.config.view import ConfigView, as_list
from mmvitscale.registry import type_name

# Of names of transforms that are not known here, those that may change an image's size.
_RESIZING = re.compile('resize|crop|scale|pad|rotat|mosaic|mixup|affine|translate|shear|stitch|transpose|albu|expand', re.I)
# They paste into an image, or move its pixels, and leave its size.
_KEEPING = ('BatchMixup', 'Mixup', 'CutMix', 'ResizeMix', 'CopyPaste')


@dataclass(frozen=True)
class _Size:
    """What is known of an image: its sides, exactly or at the most, as (height, width) or (width, height), whichever way a
    transform has them; and the transform by which sizes differ."""

    exact: tuple[int, int] | None = None
    most: tuple[int, int] | None = None
    cause: str = 'images are as they are in the data set'

    def padded(self, size: Any) -> '_Size':
        sides = _sides(size)
        most = self.exact or self.most
        fits = sides and most and all(own <= side for own, side in zip(sorted(most), sorted(sides)))
        return replace(self, exact=sides, most=sides) if fits else self


def training_image_size(cfg: Config) -> tuple[tuple[int, int] | None, str]:
    """The sides of all training images in a batch, as the config has them; or None, and the reason why they differ."""
    loader = cfg.get('train_dataloader')
    if not loader or 'dataset' not in loader:
        return None, 'there is no training data'
    size = _of_dataset(loader.dataset)
    preprocessor = ConfigView(cfg).model.get('data_preprocessor') or {}
    size = size.padded(preprocessor.get('size'))
    for step in as_list(preprocessor.get('batch_augments')):
        kind = type_name(step)
        if kind == 'BatchFixedSizePad':
            size = size.padded(step.get('size'))
        elif _RESIZING.search(kind) and kind not in _KEEPING:
            size = _Size(cause=f'{kind} gives batches of many sizes')
    progressive = [phase for hook in ConfigView(cfg).hooks('ProgressiveWindowHook') for phase in hook.get('schedule', [])[1:]]
    if progressive:
        return None, 'ProgressiveWindowHook changes windows or crops'
    return size.exact, '' if size.exact else size.cause


def _of_dataset(dataset: Any) -> _Size:
    """Of a data set, in wrappers or not; those of several data sets are one size if they agree."""
    inner = dataset.get('datasets') or as_list(dataset.get('dataset'))
    size = _agreed([_of_dataset(item) for item in inner]) if inner else _Size()
    return _after(dataset.get('pipeline') or [], size)


def _agreed(sizes: Sequence[_Size]) -> _Size:
    first = sizes[0]
    if all((size.exact, size.most) == (first.exact, first.most) for size in sizes):
        return first
    return next((size for size in sizes if not size.exact), _Size(cause='sizes differ from one choice to another'))


def _after(steps: Sequence[Any], size: _Size) -> _Size:
    for step in steps:
        size = _after_step(step, size)
    return size


def _after_step(step: Any, size: _Size) -> _Size:
    kind = type_name(step)
    many = _Size(cause=f'{kind} gives images of many sizes')
    if kind in ('RandomChoice', 'RandomApply', 'RandomOrder', 'Compose'):
        return _after_branches(step, kind, size)
    if kind == 'Resize':
        if step.get('scale') is not None:
            # With the ratio kept a longer and a shorter side are bounds, which most images do not reach.
            sides = _sides(step.scale)
            return replace(many, most=sides) if step.get('keep_ratio') else replace(many, exact=sides, most=sides)
        return size if step.get('scale_factor', 1.0) in (1, None) else many
    if kind in ('RandomResizedCrop', 'EfficientNetRandomCrop', 'EfficientNetCenterCrop'):
        sides = _sides(step.get('scale', step.get('crop_size')))
        return replace(many, exact=sides, most=sides)
    if kind == 'FixShapeResize' and not step.get('keep_ratio', True):
        sides = _sides((step.get('width'), step.get('height')))
        return replace(many, exact=sides, most=sides)
    if kind in ('RandomCrop', 'CenterCrop'):
        return _cropped(step, size, many)
    if kind == 'Pad':
        return size.padded(step.get('size'))
    return many if _RESIZING.search(kind) and kind not in _KEEPING else size


def _after_branches(step: Any, kind: str, size: _Size) -> _Size:
    transforms = step.get('transforms') or []
    if kind in ('Compose', 'RandomOrder'):
        return _after(as_list(transforms), size)
    if kind == 'RandomApply':
        return _agreed([size, _after(as_list(transforms), size)])
    branches = [_after(as_list(branch), size) for branch in transforms]
    return _agreed(branches) if branches else size


def _cropped(step: Any, size: _Size, many: _Size) -> _Size:
    """An image that is smaller than the crop stays as it is."""
    sides = _sides(step.get('crop_size'))
    if step.get('crop_type', 'absolute') not in ('absolute', 'absolute_range') or sides is None:
        return many
    exactly = step.get('crop_type', 'absolute') == 'absolute'
    large_enough = size.exact and all(own >= side for own, side in zip(sorted(size.exact), sorted(sides)))
    if exactly and (large_enough or step.get('pad_if_needed')):
        return replace(many, exact=sides, most=sides)
    return _Size(most=sides, cause=f'{type_name(step)} leaves smaller images as they are, and nothing pads them')


def _sides(value: Any) -> tuple[int, int] | None:
    sides = (value, value) if isinstance(value, (int, float)) else value
    if not isinstance(sides, (list, tuple)) or len(sides) != 2 or not all(isinstance(side, (int, float)) for side in sides):
        return None
    return int(sides[0]), int(sides[1])
