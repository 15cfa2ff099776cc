"""Files of masks and their images: paired by their names, read as numbers."""

import os
import re
from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mmvitscale.datasets.folders import (
    SPLITS,
    comparable,
    folders_of,
    is_image,
    listed_splits,
    names_in,
    repeated,
    split_of,
    walk,
)
from mmvitscale.datasets.formats.annotations import read_text
from mmvitscale.errors import InputError, some_of

MASK_FOLDERS = re.compile(r'mask|label|annot|segmentation|gtfine|ground', re.IGNORECASE)
UNKNOWN = 255  # the value of a mask's pixel whose class is not known
BESIDE = '_mask.png'  # of masks in the folder of their images, as Roboflow has them
NAME_FILES = ('classes.txt', 'class_names.txt')


@dataclass
class MaskPairs:
    """Images and masks of a split.

    images, masks: their folders. files: name of each -> its image and its mask, relative to the folders. image_suffix,
    mask_suffix: what follows all names; None where there are several kinds, and the names are those of the images.
    """

    images: Path
    masks: Path
    files: dict[str, tuple[str, str]]
    image_suffix: str | None
    mask_suffix: str | None

    @property
    def names(self) -> list[str]:
        """Of the images, without the suffix that all have."""
        return sorted(self.files)

    def paths(self, name: str) -> tuple[Path, Path]:
        """Of an image and its mask."""
        image, mask = self.files[name]
        return self.images / image, self.masks / mask


def mask_pairs(root: Path) -> dict[str, MaskPairs]:
    """Split -> its images and masks. Raises InputError for images without a mask, and where there are none for training."""
    lists = listed_splits(root, 'segmentation')
    listed = {name for names in lists.values() for name in names}
    found = {split: _paired(images, masks, listed) for split, (images, masks) in image_and_mask_folders(root).items()}
    if not found:
        for folder in folders_with_both(root):
            found[split_of(folder, root) or 'train'] = _pairs_beside(folder)
    if 'train' not in found:
        raise InputError(
            f'{root} holds no folder of masks beside a folder of images with the same names for training (such '
            f'as images/train and masks/train)'
        )
    return {split: found[split] for split in SPLITS if split in found}


def folders_with_both(root: Path) -> list[Path]:
    """Folders with images and masks beside them."""
    return [folder for folder in folders_of(root) if any(folder.glob(f'*{BESIDE}'))]


def _pairs_beside(folder: Path) -> MaskPairs:
    images = sorted(file.name for file in folder.iterdir() if is_image(file) and not file.name.endswith(BESIDE))
    masks = {file.name for file in folder.glob(f'*{BESIDE}')}
    pairs = {name: name.rsplit('.', 1)[0] + BESIDE for name in images}
    without = [name for name, mask in pairs.items() if mask not in masks]
    if without:
        raise InputError(f'{len(without)} of {len(images)} images in {folder} have no mask {pairs[without[0]]}; add them')
    suffixes = {Path(name).suffix for name in images}
    if len(suffixes) > 1:
        return MaskPairs(folder, folder, {name: (name, mask) for name, mask in pairs.items()}, None, None)
    (suffix,) = suffixes
    return MaskPairs(folder, folder, {name.removesuffix(suffix): (name, mask) for name, mask in pairs.items()}, suffix, BESIDE)


def image_and_mask_folders(root: Path) -> dict[str, tuple[Path, Path]]:
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


def _paired(images: Path, masks: Path, listed: Collection[str]) -> MaskPairs:
    """The images of a folder and their masks. listed: names of images that must have one, comparable, where VOC has masks of
    some alone. Raises InputError where one has none."""
    files, written = _files(images), set(_files(masks))
    by_suffix: dict[str, list[str]] = {}
    for file in files:
        by_suffix.setdefault(Path(file).suffix, []).append(file)
    found: dict[str, tuple[str, str]] = {}
    ends = set()
    for suffix, own in by_suffix.items():
        names, image_suffix, mask_suffix = _names_and_suffixes(own, suffix, written, images, masks)
        ends.add((image_suffix, mask_suffix))
        several = len(by_suffix) > 1
        found |= {name + image_suffix if several else name: (name + image_suffix, name + mask_suffix) for name in names}
    without = [mask for _, mask in found.values() if mask not in written]
    if masks.name == 'SegmentationClass':
        without = [mask for mask in without if comparable(Path(mask).stem) in listed]
        found = {name: (image, mask) for name, (image, mask) in found.items() if mask in written}
    if without:
        raise InputError(
            f'{len(without)} of {len(files)} images in {images} have no mask {without[0]} in {masks}; add them, or move the '
            'images away'
        )
    return MaskPairs(images, masks, found, *(ends.pop() if len(ends) == 1 else (None, None)))


def _names_and_suffixes(
    files: Sequence[str], suffix: str, written: Collection[str], images: Path, masks: Path
) -> tuple[list[str], str, str]:
    """Names of images of one kind, and what follows them there and in the folder of masks."""
    stems, in_order = [name.removesuffix(suffix) for name in files], sorted(written)
    best: tuple[list[str], str, str] | None = None
    for ending in dict.fromkeys(['', _common_ending(stems)]):
        names = [stem.removesuffix(ending) for stem in stems]
        first = next((name for name in sorted(names) if _has_start(in_order, name)), min(names))
        ends = [name[len(first) :] for name in in_order if name.startswith(first) and '/' not in name[len(first) :]]
        whole = [end for end in ends if all(name + end in written for name in names)]
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
    if best[2].endswith('gtFine_labelIds.png'):
        raise InputError(
            f'{masks} has the masks *{best[2]} of Cityscapes, whose numbers are not those of its 19 classes; run '
            'csCreateTrainIdLabelImgs of the package cityscapesscripts, which writes *_labelTrainIds.png'
        )
    return best


def _has_start(names: Sequence[str], start: str) -> bool:
    """Whether one of the names, in order, begins so."""
    place = bisect_left(names, start)
    return place < len(names) and names[place].startswith(start)


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


def check_mask_size(path: Path, mask: np.ndarray, size: tuple[int, int]) -> None:
    """Raise InputError for a mask that is not of its image's (height, width)."""
    if mask.shape != size:
        raise InputError(
            f'mask {path} is {mask.shape[1]} x {mask.shape[0]}, but its image is {size[1]} x {size[0]}; make them equal'
        )


def stray_masks(pairs: dict[str, MaskPairs]) -> list[Path]:
    """Masks with the suffix of the others that are of no image in any split."""
    used = {pair.paths(name)[1] for pair in pairs.values() for name in pair.names}
    found = []
    for pair in pairs.values():
        suffix = pair.mask_suffix or '.png'
        found += [pair.masks / name for name in _files(pair.masks) if name.endswith(suffix) and pair.masks / name not in used]
    return [] if any(pair.masks == pair.images for pair in pairs.values()) else sorted(set(found))


def listed_names(root: Path) -> tuple[list[str], Path] | None:
    """Names of classes in the order of their numbers and the file that lists them, if there is one."""
    for name in NAME_FILES:
        if (root / name).is_file():
            return _checked_names(root / name), root / name
    return None


def _checked_names(path: Path) -> list[str]:
    """The names of a file, a line each. Raises InputError for an empty line between them, and a name that is there twice."""
    text = read_text(path)
    lines = text.rstrip().splitlines()
    empty = next((i for i, line in enumerate(lines, 1) if not line.strip()), None)
    if empty is not None:
        raise InputError(f'{path}, line {empty}, is empty, but its lines count the classes; name the class, or remove the line')
    names = names_in(text)
    twice = repeated(names)
    if twice:
        raise InputError(f'{path} names {some_of(twice)} twice; give every class a name of its own')
    return names
