"""Masks of semantic segmentation: an image file of each image, whose pixels are numbers of classes, or colours of a table."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mmvitscale.datasets.folders import SPLITS, folders_of, is_image, names_in, split_of, walk
from mmvitscale.datasets.formats.annotations import AnnotatedDataset, AnnotatedImage, Entries, read_text
from mmvitscale.datasets.formats.colours import (
    VOC_CLASSES,
    ColourDecoder,
    Entry,
    find_colour_table,
    label_map_bytes,
    read_colour_table,
    voc_palette,
    write_colour_table,
)
from mmvitscale.datasets.formats.outlines import label_map_of
from mmvitscale.datasets.formats.output import Output
from mmvitscale.errors import InputError, some_of

MASK_FOLDERS = re.compile(r'mask|label|annotation|segmentation|gtfine|ground', re.IGNORECASE)
UNKNOWN = 255  # the value of a mask's pixel whose class is not known
_BESIDE = '_mask.png'  # of masks in the folder of their images, as Roboflow has them
_NO_COLOUR = (-1,)  # not one of colours, or of too many
NAME_FILES = ('classes.txt', 'class_names.txt')


@dataclass
class MaskPairs:
    """Images and masks of a split: their folders, and names of both without the suffixes."""

    images: Path
    masks: Path
    names: list[str]
    image_suffix: str
    mask_suffix: str

    def paths(self, name: str) -> tuple[Path, Path]:
        """Of an image and its mask."""
        return self.images / (name + self.image_suffix), self.masks / (name + self.mask_suffix)


def recognise(root: Path) -> str | None:
    """How a folder shows that it is in this format, or None."""
    found = _image_and_mask_folders(root)
    if found:
        _, masks = next(iter(found.values()))
        return f'{masks.relative_to(root)} has a mask of each image'
    beside = _beside(root)
    return f'{beside[0].relative_to(root)} has masks *{_BESIDE} beside the images' if beside else None


def mask_pairs(root: Path) -> dict[str, MaskPairs]:
    """Split -> its images and masks. Raises InputError for images without a mask, and where there are none for training."""
    found = {split: _paired(images, masks) for split, (images, masks) in _image_and_mask_folders(root).items()}
    if not found:
        for folder in _beside(root):
            found[split_of(folder, root) or 'train'] = _pairs_beside(folder)
    if 'train' not in found:
        raise InputError(
            f'{root} holds no folder of masks beside a folder of images with the same names for training (such '
            f'as images/train and masks/train)'
        )
    return {split: found[split] for split in SPLITS if split in found}


def _beside(root: Path) -> list[Path]:
    return [folder for folder in folders_of(root) if any(folder.glob(f'*{_BESIDE}'))]


def _pairs_beside(folder: Path) -> MaskPairs:
    files = [file for file in folder.iterdir() if is_image(file) and not file.name.endswith(_BESIDE)]
    suffixes = sorted({file.suffix for file in files})
    if len(suffixes) != 1:
        raise InputError(f'{folder} holds images of several kinds ({some_of(suffixes) or "none"}); convert them to one')
    names = sorted(file.name.removesuffix(suffixes[0]) for file in files)
    without = [name for name in names if not (folder / (name + _BESIDE)).is_file()]
    if without:
        raise InputError(f'{len(without)} of {len(names)} images in {folder} have no mask {without[0]}{_BESIDE}; add them')
    return MaskPairs(folder, folder, names, suffixes[0], _BESIDE)


def _image_and_mask_folders(root: Path) -> dict[str, tuple[Path, Path]]:
    """Split -> its folders of images and of masks. Folders inside them, of cities say, belong to them."""
    folders = [folder for folder in folders_of(root) if any(is_image(file) for file in folder.iterdir())]
    # Those of VOC hold numbers of objects, not of classes.
    folders = [folder for folder in folders if 'SegmentationObject' not in folder.relative_to(root).parts]
    is_mask = {folder: any(MASK_FOLDERS.search(part) for part in folder.relative_to(root).parts) for folder in folders}
    splits = {folder: split_of(folder, root) or 'train' for folder in folders}
    pairs: dict[str, tuple[Path, Path]] = {}
    for split in SPLITS:
        masks, images = (
            [folder for folder in folders if is_mask[folder] is kind and splits[folder] == split] for kind in (True, False)
        )
        candidates = [*_trees(images, folders, splits, root), *images]
        for folder in dict.fromkeys([*_trees(masks, folders, splits, root), *masks]):
            fitting = {candidate: _number_of_pairs(candidate, folder) for candidate in candidates}
            best = max(fitting, key=fitting.__getitem__, default=None)
            if best is None or not fitting[best] or (split in pairs and pairs[split][1] in folder.parents):
                continue
            if split in pairs:
                raise InputError(f'{pairs[split][1]} and {folder} are both folders of masks for {split}; move one of them away')
            pairs[split] = (best, folder)
    return pairs


def _trees(some: Sequence[Path], every: Sequence[Path], splits: dict[Path, str], root: Path) -> list[Path]:
    """Folders of one kind and split -> for those that lie in one folder, which holds no other kind or split, that folder."""
    found: list[Path] = []
    for folder in some:
        tree = folder
        for parent in folder.parents:
            if parent == root or not parent.is_relative_to(root) or len(some) == 1:
                break
            inside = [other for other in every if other.is_relative_to(parent)]
            if not set(inside) <= set(some) or len({splits[other] for other in inside}) > 1:
                break
            tree = parent
        if tree not in found:
            found.append(tree)
    return [folder for folder in found if not any(other in folder.parents for other in found)]


def _files(folder: Path) -> list[str]:
    """Images in a folder, or, where it has none itself, in those below it; relative to it, with slashes."""
    own = sorted(file.name for file in folder.iterdir() if is_image(file))
    if own:
        return own
    found = [
        Path(place, name).relative_to(folder).as_posix()
        for place, _, names in walk(folder)
        for name in names
        if is_image(Path(name))
    ]
    return sorted(found)


def _number_of_pairs(images: Path, masks: Path) -> int:
    """How many of some images have a mask whose name begins as theirs."""
    names = [name.rsplit('.', 1)[0] for name in _files(images)]
    stems = {name.rsplit('.', 1)[0] for name in _files(masks)}
    some = names[:: max(1, len(names) // 50)]
    ending = _common_ending(names)
    return sum(
        name in stems or any(stem.startswith(part) for stem in stems for part in {name, name.removesuffix(ending)})
        for name in some
    )


def _common_ending(names: Sequence[str]) -> str:
    """What all names end with, from an underscore on, such as Cityscapes' _leftImg8bit; '' for less than two names."""
    if len(names) < 2:
        return ''
    shared = os.path.commonprefix([name[::-1] for name in names])[::-1]
    return shared[shared.index('_') :] if '_' in shared else ''


def _paired(images: Path, masks: Path) -> MaskPairs:
    """The images of a folder and their masks. Raises InputError where one has none."""
    files = _files(images)
    suffixes = Counter(Path(name).suffix for name in files)
    if len(suffixes) > 1:
        raise InputError(f'{images} holds images of several kinds ({some_of(sorted(suffixes))}); convert them to one')
    (suffix,) = suffixes
    stems = [name.removesuffix(suffix) for name in files]
    written = _files(masks)
    best: tuple[list[str], str, str] | None = None
    for ending in dict.fromkeys(['', _common_ending(stems)]):
        names = [stem.removesuffix(ending) for stem in stems]
        first = min(names)
        ends = [name[len(first) :] for name in written if name.startswith(first) and '/' not in name[len(first) :]]
        there = set(written)
        whole = [end for end in ends if all(name + end in there for name in names)]
        chosen = min(
            whole or ends,
            key=lambda end: ('labelTrainIds' not in end, 'color' in end, 'instance' in end, len(end)),
            default=None,
        )
        if chosen is not None and (best is None or whole):
            best = (names, ending + suffix, chosen)
        if whole:
            break
    if best is None:
        raise InputError(
            f'{masks} has no mask whose name begins with {min(stems)}, as its image in {images} is called; name '
            'masks as their images'
        )
    names, image_suffix, mask_suffix = best
    if mask_suffix.endswith('gtFine_labelIds.png'):
        raise InputError(
            f'{masks} has the masks *{mask_suffix} of Cityscapes, whose numbers are not those of its 19 classes; run '
            'csCreateTrainIdLabelImgs of the package cityscapesscripts, which writes *_labelTrainIds.png'
        )
    if masks.name == 'SegmentationClass':  # VOC has masks of some images alone
        names = [name for name in names if (masks / (name + mask_suffix)).is_file()]
    without = [name for name in names if not (masks / (name + mask_suffix)).is_file()]
    if without:
        raise InputError(
            f'{len(without)} of {len(names)} images in {images} have no mask {without[0]}{mask_suffix} in '
            f'{masks}; add them, or move the images away'
        )
    return MaskPairs(images, masks, sorted(names), image_suffix, mask_suffix)


def read_mask(path: Path) -> tuple[np.ndarray, bool]:
    """(H, W) of class numbers as mmsegmentation reads them, and whether they are numbers of a palette's colours. Raises
    InputError for what is no mask."""
    try:
        with Image.open(path) as image:
            mode, kind, mask = image.mode, image.format, np.array(image)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f'mask {path} cannot be read as an image ({type(error).__name__}); repair or remove it') from error
    if kind == 'JPEG':
        raise InputError(f'mask {path} is a JPEG, whose compression changes the numbers of classes; export the masks as PNG')
    if mask.ndim != 2:
        raise InputError(
            f'mask {path} has {mask.shape[2]} channels (colours), but a mask has one, the number of its class '
            'in each pixel; list the colours in a file class_dict.csv with the columns name,r,g,b'
        )
    if mask.dtype != np.uint8 and mask.dtype != bool and (mask.max(initial=0) > UNKNOWN or mask.min(initial=0) < 0):
        raise InputError(
            f'mask {path} is of {mask.dtype} with values up to {mask.max()}, but class numbers are 0 to 254 (8 '
            'bits); renumber the classes'
        )
    return mask.astype(np.uint8), mode == 'P'


def colour_decoder(root: Path, pairs: dict[str, MaskPairs]) -> ColourDecoder | None:
    """What reads masks of colours or of a table's numbers: by the table beside them, or VOC's own colours. None: they are
    numbers of classes as they stand."""
    table = find_colour_table(root)
    if table is not None:
        return ColourDecoder(read_colour_table(table), table)
    first, seen = pairs['train'], set[tuple[int, ...]]()
    for name in first.names[:: max(1, len(first.names) // 5)]:
        with suppress(OSError, Image.DecompressionBombError), Image.open(first.paths(name)[1]) as image:
            colours = image.getcolors(300) if image.mode == 'RGB' else None
            seen |= {colour for _, colour in colours} if colours else {_NO_COLOUR}
    palette = [tuple(colour) for colour in voc_palette(len(VOC_CLASSES)).tolist()]
    if not seen - {(0, 0, 0)} or not seen <= {*palette, (224, 224, 192)}:
        return None
    return ColourDecoder([*map(Entry, VOC_CLASSES, palette), Entry('void', (224, 224, 192))], first.masks)


def listed_names(root: Path) -> tuple[list[str], Path] | None:
    """Names of classes in the order of their numbers and the file that lists them, if there is one."""
    for name in NAME_FILES:
        if (root / name).is_file():
            return names_in(read_text(root / name)), root / name
    return None


def read(root: Path, entries: Entries) -> AnnotatedDataset:
    """A folder in this format. Raises InputError for what cannot be read as a whole; ``entries`` keeps masks that are
    invalid."""
    pairs = mask_pairs(root)
    decoder = colour_decoder(root, pairs)
    images, most = [], 0
    for split, own in pairs.items():
        for name in own.names:
            with entries.entry():
                path, mask = own.paths(name)
                height, width = entries.size(path, None, str(path))
                labels = decoder(mask) if decoder else read_mask(mask)[0]
                if labels.shape != (height, width):
                    raise InputError(
                        f'mask {mask} is {labels.shape[1]} x {labels.shape[0]}, but its image is {width} x {height}; make them '
                        'equal'
                    )
                most = max(most, int(labels[labels != UNKNOWN].max(initial=0)))
                relative = path.relative_to(root).as_posix()
                reader = partial(decoder, mask) if decoder else partial(_numbers, mask)
                images.append(AnnotatedImage(path, relative, height, width, split=split, label_map=reader))
    if decoder:
        return AnnotatedDataset(root, decoder.classes, images)
    listed = listed_names(root)
    names = list(entries.classes) if entries.classes else listed[0] if listed else [f'class_{i}' for i in range(most + 1)]
    if most >= len(names):
        raise InputError(f'the masks hold {most}, but {len(names)} classes are named, 0 to {len(names) - 1}; name them all')
    return AnnotatedDataset(root, names, images)


def _numbers(path: Path) -> np.ndarray:
    return read_mask(path)[0]


def write(dataset: AnnotatedDataset, output: Output) -> None:
    """Of each split folders in ``images`` and ``masks``, numbers of classes in VOC's palette, and their table
    ``labelmap.txt``. Objects are drawn one over the other on a class background."""
    drawn = any(image.label_map is None for image in dataset.images)
    named = 'background' in dataset.classes or not drawn
    classes = list(dataset.classes) if named else ['background', *dataset.classes]
    background = classes.index('background') if 'background' in classes else None
    for image in dataset.images:
        split = image.split or '.'
        name = output.image(image, f'images/{split}', unique_stem=True)
        labels = label_map_of(image, classes, background)
        output.bytes(f'masks/{split}/{Path(name).with_suffix(".png").as_posix()}', label_map_bytes(labels))
    output.text('labelmap.txt', write_colour_table(classes, voc_palette(len(classes))))
