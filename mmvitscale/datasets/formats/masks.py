"""Masks of semantic segmentation: an image file of each image, whose pixels are numbers of classes, or colours of a table."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from mmvitscale.datasets.folders import comparable, listed_splits, split_of
from mmvitscale.datasets.formats.annotations import AnnotatedDataset, AnnotatedImage, Entries
from mmvitscale.datasets.formats.colours import (
    UNKNOWN_NAMES,
    VOC_BORDER,
    VOC_CLASSES,
    ColourDecoder,
    Entry,
    find_colour_table,
    label_map_bytes,
    read_colour_table,
    voc_palette,
    write_colour_table,
)
from mmvitscale.datasets.formats.mask_classes import mask_classes
from mmvitscale.datasets.formats.mask_files import (
    BESIDE,
    NAME_FILES,
    UNKNOWN,
    MaskPairs,
    check_mask_size,
    folders_with_both,
    image_and_mask_folders,
    listed_names,
    mask_pairs,
    read_mask,
    stray_masks,
)
from mmvitscale.datasets.formats.outlines import label_map_of
from mmvitscale.datasets.formats.output import Output
from mmvitscale.errors import InputError, some_of

_NO_COLOUR = (-1,)  # not one of colours, or of too many


def recognise(root: Path) -> str | None:
    """How a folder shows that it is in this format, or None."""
    found = image_and_mask_folders(root)
    if found:
        _, masks = next(iter(found.values()))
        return f'{masks.relative_to(root)} has a mask of each image'
    beside = folders_with_both(root)
    return f'{beside[0].relative_to(root)} has masks *{BESIDE} beside the images' if beside else None


def colour_decoder(root: Path, pairs: dict[str, MaskPairs], classes: Sequence[str] | None = None) -> ColourDecoder | None:
    """What reads masks of colours or of a table's numbers: by the table beside them, or VOC's own colours. None: they are
    numbers of classes as they stand. classes: names that the user gives."""
    table = find_colour_table(root)
    if table is not None:
        return ColourDecoder(read_colour_table(table), table)
    first, seen = pairs['train'], set[tuple[int, ...]]()
    palette = [tuple(colour) for colour in voc_palette(len(VOC_CLASSES)).tolist()]
    unnamed = first.masks.name == 'SegmentationClass' and listed_names(root) is None and not classes
    for name in first.names[:: max(1, len(first.names) // 5)]:
        with suppress(OSError, Image.DecompressionBombError), Image.open(first.paths(name)[1]) as image:
            own = image.getpalette()
            of_voc = own is not None and [tuple(own[i : i + 3]) for i in range(0, 63, 3)] == palette
            if image.mode == 'P' and of_voc and unnamed:
                image = image.convert('RGB')
            colours = image.getcolors(300) if image.mode == 'RGB' else None
            seen |= {colour for _, colour in colours} if colours else {_NO_COLOUR}
    if not seen - {(0, 0, 0)} or not seen <= {*palette, VOC_BORDER}:
        return None
    return ColourDecoder([*map(Entry, VOC_CLASSES, palette)], first.masks)


def read(root: Path, entries: Entries) -> AnnotatedDataset:
    """A folder in this format. Raises InputError for what cannot be read as a whole; ``entries`` keeps masks that are
    invalid."""
    pairs = mask_pairs(root)
    decoder = colour_decoder(root, pairs, entries.classes)
    lists = listed_splits(root, 'segmentation')
    listed = listed_names(root)
    named = list(entries.classes) if entries.classes else listed[0] if listed else None
    images: list[tuple[AnnotatedImage, Path]] = []  # with their masks
    values: set[int] = set()
    for own in pairs.values():
        for name in own.names:
            with entries.entry():
                path, mask = own.paths(name)
                split = next((split for split, stems in lists.items() if comparable(path.stem) in stems), None)
                split = split or split_of(mask.parent, root) or split_of(path.parent, root)
                height, width = entries.size(path, None, str(path))
                values |= _checked_values(mask, decoder, (height, width), named)
                image = AnnotatedImage(path, path.relative_to(root).as_posix(), height, width, split=split)
                images.append((image, mask))
    for stray in stray_masks(pairs):
        with entries.entry():
            raise InputError(f'mask {stray} has no image of its name; add the image, or remove the mask')
    notes = []
    if lists:
        unlisted = sum(image.split is None for image, _ in images)
        images = [(image, mask) for image, mask in images if image.split is not None]
        notes += [f'{unlisted} images are in no list of ImageSets and are left out'] if unlisted else []
    reader: Callable[[Path], np.ndarray]
    if decoder:
        names, reader = decoder.classes, decoder
        if decoder.path == pairs['train'].masks:
            notes.append(
                f'classes and colours are those of Pascal VOC; name others with --classes, or in {root / NAME_FILES[0]}'
            )
    else:
        names, zero_is_unknown, more = mask_classes(root, sorted(values), entries.classes, pairs)
        reader = _numbers_from_one if zero_is_unknown else _numbers
        notes += more
    for image, mask in images:
        image.label_map = partial(reader, mask)
    return AnnotatedDataset(root, names, [image for image, _ in images], notes)


def _checked_values(mask: Path, decoder: ColourDecoder | None, size: tuple[int, int], named: Sequence[str] | None) -> set[int]:
    """The numbers in a mask but that of unknown pixels. Raises InputError for a mask of another size than its image, or with
    numbers beyond the names."""
    labels = decoder(mask) if decoder else read_mask(mask)[0]
    check_mask_size(mask, labels, size)
    values = set(np.unique(labels).tolist()) - {UNKNOWN}
    if not decoder and named and max(values, default=0) > len(named):  # as many: they may count from 1
        raise InputError(
            f'mask {mask} holds the value {max(values)}, but {len(named)} classes are named, 0 to {len(named) - 1}; name them '
            f'all, or write {UNKNOWN} where the class is not known'
        )
    return values


def _numbers(path: Path) -> np.ndarray:
    return read_mask(path)[0]


def _numbers_from_one(path: Path) -> np.ndarray:
    """Class indices of a mask in which 0 stands for unknown."""
    labels = read_mask(path)[0]
    return np.where((labels == 0) | (labels == UNKNOWN), UNKNOWN, labels - 1).astype(np.uint8)


def write(dataset: AnnotatedDataset, output: Output) -> None:
    """Of each split folders in ``images`` and ``masks``, numbers of classes in VOC's palette, and their table
    ``labelmap.txt``. Objects are drawn one over the other on a class background."""
    drawn = any(image.label_map is None for image in dataset.images)
    named = 'background' in dataset.classes or not drawn
    classes = list(dataset.classes) if named else ['background', *dataset.classes]
    unknown = [name for name in classes if name.lower() in UNKNOWN_NAMES]
    if unknown:
        raise InputError(f'class {some_of(unknown)} stands for unknown pixels in masks; rename it')
    background = classes.index('background') if 'background' in classes else None
    for image in dataset.images:
        split = image.split or '.'
        name = output.image(image, f'images/{split}', unique_stem=True)
        labels = label_map_of(image, classes, background)
        output.bytes(f'masks/{split}/{Path(name).with_suffix(".png").as_posix()}', label_map_bytes(labels))
    output.text('labelmap.txt', write_colour_table(classes, voc_palette(len(classes))))
