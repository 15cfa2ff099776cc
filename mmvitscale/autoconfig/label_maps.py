"""Label maps for semantic segmentation, checked and described: masks of class indices as they are, masks of colours and objects
as label maps that are written beside the config."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from mmvitscale.autoconfig.layout import InspectedDataset, Split, describe_images, middle
from mmvitscale.datasets.folders import SPLITS
from mmvitscale.datasets.formats.annotations import AnnotatedDataset, AnnotatedImage
from mmvitscale.datasets.formats.mask_classes import mask_classes
from mmvitscale.datasets.formats.mask_files import UNKNOWN, MaskPairs, check_mask_size, read_mask, stray_masks
from mmvitscale.datasets.formats.outlines import BACKGROUND, label_map_of
from mmvitscale.datasets.image_size import image_size
from mmvitscale.errors import InputError, some_of


def inspect_masks(root: Path, pairs: dict[str, MaskPairs], classes: Sequence[str] | None) -> InspectedDataset:
    """Masks of numbers, and names of classes in their order, if there are any -> what was found. Raises InputError for what
    cannot be trained on."""
    found, palette = _Pixels(), []
    for name, pair in pairs.items():
        split = found.splits[name] = Split(
            pair.images, pair.masks, pair.names, image_suffix=pair.image_suffix or '', mask_suffix=pair.mask_suffix or ''
        )
        for image in split.names:
            size = image_size(pair.paths(image)[0])
            path = pair.paths(image)[1]
            mask, is_palette = read_mask(path)
            check_mask_size(path, mask, size)
            palette += [image] if is_palette else []
            found.add(name, image, mask)
    values = sorted({value for _, value in found.counts} - {UNKNOWN})
    names, zero_is_unknown, notes = mask_classes(root, values, classes, pairs)
    strays = stray_masks(pairs)
    if strays:
        notes.append(f'{len(strays)} masks have no image and are left out (the first: {strays[0]})')
    if palette:
        notes.append(f'{len(palette)} masks have a palette: the numbers of its colours are taken for the classes')
    return found.inspected(root, names, notes, zero_is_unknown)


def inspect_label_maps(dataset: AnnotatedDataset, classes: Sequence[str] | None) -> InspectedDataset:
    """A data set that was read, with label maps or with objects, which are drawn one over the other. classes: of objects, those
    to draw, if not all. Raises InputError for what cannot be trained on."""
    maps = all(image.label_map for image in dataset.images)
    names, notes = list(dataset.classes), []
    if classes and maps and list(classes) != names:
        raise InputError(f'--classes found, but the masks of {dataset.root} name theirs: {some_of(names)}; leave --classes out')
    if classes and not maps:
        unknown = [name for name in classes if name not in names]
        if unknown:
            raise InputError(f'--classes names {some_of(unknown)}, but the classes are {some_of(names)}; choose among them')
        names = [name for name in names if name in classes]
    images = dataset.images if maps else [_without_others(image, names) for image in dataset.images]
    background = next((name for name in names if name.lower() in BACKGROUND), None)
    if not maps:
        if background is None and any((label_map_of(image, names, None) == UNKNOWN).any() for image in images):
            background, names = 'background', ['background', *names]
        bare = sum(item.segmentation is None for image in images for item in image.objects)
        notes.append('label maps are drawn from the objects, one over the other in their order')
        if bare:
            notes.append(f'{bare} objects are boxes alone, all of whose pixels are taken for the class')
    found = _Pixels()
    for split in SPLITS:
        own = [image for image in images if image.split == split]
        if own:
            found.splits[split] = Split(dataset.root, dataset.root, [image.name for image in own], mask_suffix='.png')
        for image in own:
            read = image.label_map or partial(label_map_of, image, names, names.index(background) if background else None)
            found.splits[split].label_maps[image.name] = read
            found.add(split, image.name, read())
    if 'train' not in found.splits:
        raise InputError(f'{dataset.root} has no images for training; put those into a folder train')
    result = found.inspected(dataset.root, names, notes)
    result.embedded = dataset.images if any(image.embedded for image in dataset.images) else []
    return result


def _without_others(image: AnnotatedImage, names: Sequence[str]) -> AnnotatedImage:
    kept = [item for item in image.objects if item.category in names]
    return AnnotatedImage(image.path, image.name, image.height, image.width, kept, image.split)


class _Pixels:
    """Pixels by split and value, and what else is counted of masks."""

    def __init__(self) -> None:
        self.splits: dict[str, Split] = {}
        self.sizes: list[tuple[int, int]] = []
        self.counts: Counter[tuple[str, int]] = Counter()

    def add(self, split: str, name: str, mask: np.ndarray) -> None:
        """Count a mask, (H, W) uint8."""
        self.sizes.append((mask.shape[0], mask.shape[1]))
        values, pixels = np.unique(mask, return_counts=True)
        for value, number in zip(values.tolist(), pixels.tolist()):
            self.counts[split, value] += number
        self.splits[split].labels[name] = set(values.tolist()) - {UNKNOWN}

    def inspected(self, root: Path, names: list[str], notes: list[str], zero_is_unknown: bool = False) -> InspectedDataset:
        """Raises InputError where there is nothing to distinguish."""
        counts, offset = self.counts, int(zero_is_unknown)
        seen = [i for i in range(len(names)) if counts['train', i + offset]]
        if len(seen) < 2:
            left = [0] * zero_is_unknown + [UNKNOWN]
            left_out = ' and '.join(str(value) for value in left if counts['train', value])
            instead = f'such as 1 in place of {UNKNOWN}' if counts['train', UNKNOWN] else 'also of what is around the objects'
            raise InputError(
                f'every labelled pixel of the training masks in {self.splits["train"].ground_truth} is of class '
                f'{names[seen[0]] if seen else "none"}{f" ({left_out} stands for unknown)" if left_out else ""}, so there is '
                f'nothing to distinguish; write the number of its class into each pixel, {instead}'
            )
        unseen = [name for i, name in enumerate(names) if i not in seen]
        if unseen:
            notes = [f'class {some_of(unseen)} has no pixel in the training masks and cannot be learned', *notes]
        total = sum(counts['train', i + offset] for i in range(len(names)))
        shares = ', '.join(f'{name} ({counts["train", i + offset] / max(1, total):.1%})' for i, name in enumerate(names[:20]))
        lines = [
            describe_images(self.splits, self.sizes),
            f'{len(names)} classes: {shares}{", ..." if len(names) > 20 else ""}',
        ]
        if zero_is_unknown:
            for split in self.splits.values():
                split.labels = {name: found - {0} for name, found in split.labels.items()}
        smallest, size = min(map(min, self.sizes)), middle(self.sizes)
        return InspectedDataset(
            'segmentation', root, names, self.splits, size, smallest, 0, zero_is_unknown, lines=lines, notes=notes
        )
