"""Folders of images and of masks, the ground truth of semantic segmentation: found, paired, checked and counted."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mmvitscale.autoconfig.coco_folders import coco_files
from mmvitscale.autoconfig.layout import MASK_FOLDERS, InspectedDataset, Split, describe_images, middle
from mmvitscale.datasets.folders import SPLITS, folders_of, is_image, names_in, repeated, split_of, walk
from mmvitscale.datasets.image_size import image_size
from mmvitscale.errors import InputError, some_of

UNKNOWN = 255  # the value of a mask's pixel whose class is not known


def inspect_masks(root: Path, classes: Sequence[str] | None) -> InspectedDataset:
    """A folder, and names of classes in the order of their numbers, if there are any -> what was found. Raises InputError for
    what cannot be trained on."""
    if not root.is_dir():
        raise InputError(f'{root} is a file, but --task segmentation wants a folder with folders of images and of masks')
    splits, sizes, counts, palette = {}, [], Counter[tuple[str, int]](), []
    for name, (images, masks) in _image_and_mask_folders(root).items():
        split = splits[name] = _paired(images, masks)
        for image in split.names:
            size = image_size(images / (image + split.image_suffix))
            path = masks / (image + split.mask_suffix)
            mask, is_palette = read_mask(path)
            if mask.shape != size:
                raise InputError(
                    f'mask {path} is {mask.shape[1]} x {mask.shape[0]}, but its image is {size[1]} x {size[0]}; make them equal'
                )
            sizes.append(size)
            palette += [image] if is_palette else []
            values, pixels = np.unique(mask, return_counts=True)
            for value, number in zip(values.tolist(), pixels.tolist()):
                counts[name, value] += number
            split.labels[image] = set(values.tolist()) - {UNKNOWN}
    values = sorted({value for _, value in counts} - {UNKNOWN})
    names, zero_is_unknown, notes = _mask_classes(root, values, classes, splits)
    offset = int(zero_is_unknown)
    seen = [i for i in range(len(names)) if counts['train', i + offset]]
    if len(seen) < 2:
        left_out = ' and '.join(str(value) for value in ([0] if zero_is_unknown else []) + [UNKNOWN] if counts['train', value])
        raise InputError(
            f'every labelled pixel of the training masks in {splits["train"].ground_truth} is of class '
            f'{names[seen[0]] if seen else "none"}{f" ({left_out} stands for unknown)" if left_out else ""}, so there is '
            f'nothing to distinguish; write the number of its class into each pixel'
            f'{f", such as 1 in place of {UNKNOWN}" if counts["train", UNKNOWN] else ", also of what is around the objects"}'
        )
    unseen = [name for i, name in enumerate(names) if i not in seen]
    if unseen:
        notes.append(f'class {some_of(unseen)} has no pixel in the training masks and cannot be learned')
    if palette:
        notes.append(f'{len(palette)} masks have a palette: the numbers of its colours are taken for the classes')
    total = sum(counts['train', i + offset] for i in range(len(names)))
    shares = ', '.join(f'{name} ({counts["train", i + offset] / max(1, total):.1%})' for i, name in enumerate(names[:20]))
    lines = [describe_images(splits, sizes), f'{len(names)} classes: {shares}{", ..." if len(names) > 20 else ""}']
    if zero_is_unknown:
        for split in splits.values():
            split.labels = {name: found - {0} for name, found in split.labels.items()}
    smallest = min(map(min, sizes))
    return InspectedDataset('segmentation', root, names, splits, middle(sizes), smallest, 0, zero_is_unknown, lines, notes)


def _image_and_mask_folders(root: Path) -> dict[str, tuple[Path, Path]]:
    """Split -> its folders of images and of masks. Folders inside them, of cities say, belong to them."""
    folders = [folder for folder in folders_of(root) if any(is_image(file) for file in folder.iterdir())]
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
    if 'train' not in pairs:
        coco = coco_files(root)
        hint = f'; for the COCO file {min(coco)} use --task detection or instance' if coco else ''
        raise InputError(
            f'{root} holds no folder of masks beside a folder of images with the same names for training (such '
            f'as images/train and masks/train){hint}'
        )
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


def _paired(images: Path, masks: Path) -> Split:
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
    without = [name for name in names if not (masks / (name + mask_suffix)).is_file()]
    if without:
        raise InputError(
            f'{len(without)} of {len(names)} images in {images} have no mask {without[0]}{mask_suffix} in '
            f'{masks}; add them, or move the images away'
        )
    return Split(images, masks, sorted(names), image_suffix=image_suffix, mask_suffix=mask_suffix)


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
            'in each pixel; convert the colours to numbers'
        )
    if mask.dtype != np.uint8 and mask.dtype != bool and (mask.max(initial=0) > UNKNOWN or mask.min(initial=0) < 0):
        raise InputError(
            f'mask {path} is of {mask.dtype} with values up to {mask.max()}, but class numbers are 0 to 254 (8 '
            'bits); renumber the classes'
        )
    return mask.astype(np.uint8), mode == 'P'


def _named_by_user(root: Path, classes: Sequence[str] | None) -> tuple[Sequence[str] | None, Path]:
    """Names of the classes from the command line or a file classes.txt, if there are any, and that file."""
    listed = root / 'classes.txt'
    if classes is None and listed.is_file():
        try:
            classes = names_in(listed.read_text('utf-8-sig'))
        except UnicodeDecodeError as error:
            raise InputError(f'{listed} is not UTF-8 text ({error.reason}); save it as UTF-8') from error
        twice = repeated(classes)
        if twice:
            raise InputError(f'{listed} names {some_of(twice)} twice; give every class a name of its own')
    return classes, listed


def _known_classes(split: Split) -> tuple[list[str], bool] | None:
    """Names of the classes of a public data set, by the names of its files, and whether 0 stands for unknown there."""
    is_ade20k = split.names[0].startswith('ADE_') and '_' in split.names[0][4:]
    if not is_ade20k and 'labelTrainIds' not in split.mask_suffix:
        return None
    from mmseg.utils import get_classes

    return get_classes('ade20k' if is_ade20k else 'cityscapes'), is_ade20k


def _mask_classes(
    root: Path, values: Sequence[int], classes: Sequence[str] | None, splits: dict[str, Split]
) -> tuple[list[str], bool, list[str]]:
    """Names of the classes, whether 0 stands for unknown, and notes."""
    notes, folder = [], splits['train'].ground_truth
    if not values:
        raise InputError(
            f'every pixel of the masks in {folder} is {UNKNOWN}, which stands for unknown; write the number of its class '
            'into each'
        )
    classes, listed = _named_by_user(root, classes)
    instead = f'; write 1 in place of {values[1]}' if len(values) == 2 and values[0] == 0 and values[1] > 1 else ''
    if classes is None:
        known = _known_classes(splits['train'])
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
    masks = (split.ground_truth / (name + split.mask_suffix) for split in splits.values() for name in split.names)
    stranger = next(path for path in masks if np.isin(read_mask(path)[0], [v for v in values if v >= len(classes)]).any())
    raise InputError(
        f'mask {stranger} holds the value {max(values)}, but {len(classes)} classes are named '
        f'({some_of(classes)}), 0 to {len(classes) - 1}'
        f'{instead or f"; name them all, or write {UNKNOWN} where the class is not known"}'
    )
