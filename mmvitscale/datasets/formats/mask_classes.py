"""What the numbers in masks of semantic segmentation mean: names that the user gives, or those of a public data set."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmvitscale.datasets.formats.mask_files import NAME_FILES, UNKNOWN, MaskPairs, listed_names, read_mask
from mmvitscale.errors import InputError, some_of


def _named_by_user(root: Path, classes: Sequence[str] | None) -> tuple[Sequence[str] | None, Path]:
    """Names of the classes from the command line or a file of names, if there are any, and that file."""
    found = listed_names(root)
    return (found[0] if classes is None and found else classes), found[1] if found else root / NAME_FILES[0]


def _known_classes(pair: MaskPairs) -> tuple[list[str], bool] | None:
    """Names of the classes of a public data set, by the names of its files, and whether 0 stands for unknown there."""
    is_ade20k = pair.names[0].startswith('ADE_') and '_' in pair.names[0][4:]
    if not is_ade20k and 'labelTrainIds' not in (pair.mask_suffix or ''):
        return None
    from mmseg.utils import get_classes

    return get_classes('ade20k' if is_ade20k else 'cityscapes'), is_ade20k


def mask_classes(
    root: Path, values: Sequence[int], classes: Sequence[str] | None, pairs: dict[str, MaskPairs]
) -> tuple[list[str], bool, list[str]]:
    """What the numbers of masks mean.

    Args:
        root: the data set's folder.
        values: that the masks hold, without that of unknown pixels.
        classes: names that the user gives.
        pairs: images and masks of each split.

    Returns:
        names of the classes, whether 0 stands for unknown and they count from 1, and notes.

    Raises:
        InputError: for numbers that no name is for.
    """
    notes, folder = [], pairs['train'].masks
    if not values:
        raise InputError(
            f'every pixel of the masks in {folder} is {UNKNOWN}, which stands for unknown; write the number of its class '
            'into each'
        )
    classes, listed = _named_by_user(root, classes)
    instead = f'; write 1 in place of {values[1]}' if len(values) == 2 and values[0] == 0 and values[1] > 1 else ''
    if classes is None:
        known = _known_classes(pairs['train'])
        if known is not None and max(values) < len(known[0]) + known[1]:
            return *known, []
        if values == [0]:
            raise InputError(
                f'the masks in {folder} hold nothing but 0 and {UNKNOWN} (unknown); if {UNKNOWN} is the object, write 1 instead'
            )
        count = max(values) + 1
        if count > 2 * len(values):
            raise InputError(
                f'the masks in {folder} hold {len(values)} values ({some_of([str(v) for v in values])}) up to {max(values)}, '
                f'so that {count - len(values)} of {count} classes would have no pixel'
                f'{instead or "; number the classes from 0 on, or name all of them with --classes"}'
            )
        classes = [f'class_{i}' for i in range(count)]
        notes.append(
            f'the classes have no names; give them with --classes, in the order of their numbers, or in {listed}; where 0 '
            'stands for unknown, name those from 1 on'
        )
    if len(classes) < 2:
        raise InputError(
            f'one class ({some_of(list(classes))}) is named, but segmentation distinguishes two or more; name '
            'what is around it, too'
        )
    if max(values) < len(classes):
        return list(classes), False, notes
    if max(values) == len(classes) and values[0] == 0:
        notes.append(f'{len(classes)} classes are named and the masks hold 0 to {max(values)}: 0 is taken for unknown')
        return list(classes), True, notes
    if max(values) == len(classes) and values[0] == 1:
        return list(classes), True, notes
    masks = (pair.paths(name)[1] for pair in pairs.values() for name in pair.names)
    stranger = next(path for path in masks if np.isin(read_mask(path)[0], [v for v in values if v >= len(classes)]).any())
    raise InputError(
        f'mask {stranger} holds the value {max(values)}, but {len(classes)} classes are named '
        f'({some_of(classes)}), 0 to {len(classes) - 1}'
        f'{instead or f"; name them all, or write {UNKNOWN} where the class is not known"}'
    )
