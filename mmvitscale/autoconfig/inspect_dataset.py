"""What a user's own data are: found, checked and counted, for a config to be made of it."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image, UnidentifiedImageError

from mmvitscale.datasets.coco import check_content, check_entries, read_coco
from mmvitscale.datasets.image_size import check_image_size
from mmvitscale.errors import InputError, some_of

_IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
_SPLITS = dict(train=('train', 'training'), val=('val', 'valid', 'validation'), test=('test', 'testing'))
_MASK_FOLDERS = re.compile(r'mask|label|annotation|segmentation|gtfine|ground', re.IGNORECASE)
_DEPTH = 3  # folders below the given one that are looked into
PART = 'part_of'  # key of a COCO file that was made of another one, beside a config
UNKNOWN = 255  # the value of a mask's pixel whose class is not known


@dataclass
class Split:
    """Part of a data set: where its images and its ground truth are (a COCO file, or a folder of masks), and its images by
    name, relative to the folder (without suffix for masks). listed: a file with these names, where the folder holds others."""

    images: Path
    ground_truth: Path
    names: list[str]
    listed: Path | None = None


@dataclass
class InspectedDataset:
    """A data set as it was found.

    task: segmentation, detection or instance. splits: train, and val and test where there are any. size: (height, width) of
    the middle image. image_suffix, mask_suffix: what follows a name in the folders of images and masks. zero_is_unknown:
    masks hold 0 where nothing is known, and the classes begin at 1. lines: what a user wants to know. notes: what a user
    should look at.
    """

    task: str
    root: Path
    classes: list[str]
    splits: dict[str, Split]
    size: tuple[int, int]
    image_suffix: str = ''
    mask_suffix: str = ''
    zero_is_unknown: bool = False
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def inspect_dataset(data: str, task: str, classes: Sequence[str] | None = None) -> InspectedDataset:
    """A folder or COCO file, the task (segmentation, detection, instance) and, if wanted, names of classes -> the
    inspect_dataset.

    Raises:
        InputError: for data that cannot be trained on, in one sentence.
    """
    path = Path(data).expanduser().resolve()
    if not path.exists():
        raise InputError(f'data {data} are not there; give a folder, or a COCO file')
    repeated = _repeated(classes or ())
    if repeated:
        raise InputError(f'--classes names {some_of(repeated)} twice; give every class a name of its own')
    if task == 'segmentation':
        return _inspect_masks(path, classes)
    return _inspect_coco(path, task, classes)


def _repeated(names: Sequence[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _split_of(path: Path, root: Path) -> str | None:
    """Which split a file or folder belongs to, by the last part of its name below the root that names one."""
    for part in reversed(path.relative_to(root).parts):
        words = set(re.split(r'[^a-z]+', Path(part).stem.lower()))
        for split, names in _SPLITS.items():
            if words & set(names):
                return split
    return None


def _folders(root: Path) -> list[Path]:
    """The root and the folders below it, down to a few levels."""
    below = [path for path in sorted(root.rglob('*')) if path.is_dir() and len(path.relative_to(root).parts) <= _DEPTH]
    return [root, *(path for path in below if not any(part.startswith('.') for part in path.relative_to(root).parts))]


def _image_size(path: Path) -> tuple[int, int]:
    """(height, width), of an image as OpenMMLab reads it: turned as its EXIF data say."""
    check_image_size(path)
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) >= 5
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f'{path} cannot be read as an image ({type(error).__name__}); repair or remove it') from error
    return (width, height) if turned else (height, width)


def _middle(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return int(median(height for height, _ in sizes)), int(median(width for _, width in sizes))


def _describe_images(splits: dict[str, Split], sizes: Sequence[tuple[int, int]]) -> str:
    counts = ', '.join(f'{len(split.names)} {name}' for name, split in splits.items())
    shortest, longest = min(map(min, sizes)), max(map(max, sizes))
    return f'images: {counts}; {_middle(sizes)[0]} x {_middle(sizes)[1]} in the middle, sides of {shortest} to {longest}'


# COCO


def _inspect_coco(path: Path, task: str, classes: Sequence[str] | None) -> InspectedDataset:
    root = path if path.is_dir() else path.parent
    if root.name == 'annotations' and not path.is_dir():
        root = root.parent  # COCO's own layout, with the images beside that folder
    found = _coco_files(root) if path.is_dir() else {path: read_coco(path)}
    if not found:
        masks = [folder for folder in _folders(root) if _MASK_FOLDERS.search(folder.name)]
        hint = f'for the masks in {masks[0]} use --task segmentation' if masks else 'export the annotations in COCO format'
        raise InputError(f'{root} holds no COCO file (JSON with images, annotations and categories); {hint}')
    chosen: dict[str, Path] = {}
    for file in found:
        split = path.is_dir() and _split_of(file, root) or 'train'
        if split in chosen:
            raise InputError(
                f'{chosen[split]} and {file} are both COCO files for {split}; give one of them as --data, or '
                'move the other away'
            )
        chosen[split] = file
    if 'train' not in chosen:
        raise InputError(f'{root} has COCO files for {some_of(sorted(chosen))}, but none for training; name it train.json')
    contents = {split: found[chosen[split]] for split in _SPLITS if split in chosen}
    for split, content in contents.items():
        _check_lists(content, chosen[split])
    names, notes = _coco_classes(contents, chosen, classes)
    splits, sizes = {}, []
    for split, content in contents.items():
        images = [image['file_name'] for image in content['images']]
        folder = _image_folder(chosen[split], images, root, _split_of(chosen[split], root) or split)
        notes += check_content(content, chosen[split], folder, names, split == 'train', task == 'instance')
        splits[split] = Split(folder, chosen[split], images)
        sizes += _check_sizes(content['images'], folder, chosen[split])
    lines = [_describe_images(splits, sizes), *_describe_boxes(contents['train'], names)]
    return InspectedDataset(task, root, names, splits, _middle(sizes), lines=lines, notes=notes)


def _check_lists(content: dict, path: Path) -> None:
    if not all(isinstance(content.get(key), list) for key in ('images', 'annotations', 'categories')):
        raise InputError(
            f'{path} is no COCO file, which has lists of images, annotations and categories; export it in COCO format'
        )
    check_entries(content, path)


def _coco_files(root: Path) -> dict[Path, dict]:
    """The files below the root with boxes in COCO's form, and what they hold; captions and key points are COCO's own further
    files."""
    found = {}
    for folder in _folders(root):
        for file in sorted(folder.glob('*.json')):
            if re.match('captions|person_keypoints|panoptic|stuff|image_info', file.name):
                continue
            try:
                content = read_coco(file)
            except InputError:  # some other JSON
                continue
            if {'images', 'annotations', 'categories'} <= set(content) and PART not in content:
                found[file] = content
    return found


def _coco_classes(
    contents: dict[str, dict], files: dict[str, Path], classes: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """The classes to learn, in the order of the file, and notes on those left out."""
    per_split = {split: [category['name'] for category in content['categories']] for split, content in contents.items()}
    used: dict[str, set] = {}
    for split, content in contents.items():
        ids = {item['category_id'] for item in content['annotations']}
        used[split] = {category['name'] for category in content['categories'] if category['id'] in ids}
    names = per_split['train']
    repeated = _repeated(names)
    if repeated:
        raise InputError(f'{files["train"]} has the category {some_of(repeated)} twice; give each a name of its own')
    for split, others in per_split.items():
        if set(others) != set(names):
            raise InputError(
                f'{files[split]} has the categories {some_of(others)}, but {files["train"]} has '
                f'{some_of(names)}; export both with the same categories'
            )
    if classes:
        unknown = [name for name in classes if name not in names]
        if unknown:
            raise InputError(
                f'--classes names {some_of(unknown)}, but the categories of {files["train"]} are '
                f'{some_of(names)}; choose among them'
            )
        names = [name for name in names if name in classes]
    unseen = [name for name in names if name not in used['train']]
    elsewhere = [name for name in unseen if any(name in some for some in used.values())]
    if elsewhere:
        raise InputError(
            f'class {some_of(elsewhere)} has objects in {" and ".join(sorted(set(used) - {"train"}))} but none '
            f'in {files["train"]}; split the data again, or leave the class out with --classes'
        )
    if classes and unseen:
        raise InputError(f'class {some_of(unseen)} has no object in {files["train"]}; leave it out of --classes')
    if not used['train']:
        raise InputError(f'{files["train"]} has no object of any category; export it with its annotations')
    notes = [f'category {some_of(unseen)} has no object and is left out'] if unseen else []
    return [name for name in names if name not in unseen], notes


def _image_folder(file: Path, names: Sequence[str], root: Path, split: str) -> Path:
    """Where the images of a COCO file are: the folder in which most of some of them are found."""
    some = names[:: max(1, len(names) // 50)]
    folders = sorted({file.parent, *_folders(root)}, key=lambda folder: (_split_of(folder, root) != split, folder))
    found = max(folders, key=lambda folder: sum((folder / name).is_file() for name in some))
    if not any((found / name).is_file() for name in some):
        first = names[0] if names else 'none'
        raise InputError(
            f'none of the images that {file} lists is below {root} (the first: {first}); give the folder that '
            'holds both as --data'
        )
    return found


def _check_sizes(images: Sequence[dict], folder: Path, file: Path) -> list[tuple[int, int]]:
    """(height, width) of all; some are compared with the files themselves."""
    for image in images[:: max(1, len(images) // 50)]:
        height, width = _image_size(folder / image['file_name'])
        if (height, width) != (image['height'], image['width']):
            raise InputError(
                f'{file} says that {image["file_name"]} is {image["width"]} x {image["height"]}, but it is '
                f'{width} x {height}; export the annotations again, from these images'
            )
    return [(image['height'], image['width']) for image in images]


def _describe_boxes(content: dict, names: Sequence[str]) -> list[str]:
    known = {category['id']: category['name'] for category in content['categories'] if category['name'] in names}
    boxes = [item for item in content['annotations'] if item['category_id'] in known]
    counts = Counter(known[item['category_id']] for item in boxes)
    sides = sorted((item['bbox'][2] * item['bbox'][3]) ** 0.5 for item in boxes)
    small, middle, large = (sides[int(share * (len(sides) - 1))] for share in (0.1, 0.5, 0.9))
    per_image = len(boxes) / max(1, len(content['images']))
    return [
        f'{len(names)} classes: '
        + ', '.join(f'{name} ({counts[name]})' for name in names[:20])
        + (', ...' if len(names) > 20 else ''),
        f'objects: {len(boxes)}, {per_image:.1f} an image; sides of {small:.0f}, {middle:.0f} and {large:.0f} pixels at 10, '
        '50 and 90%',
    ]


# Masks


def _inspect_masks(root: Path, classes: Sequence[str] | None) -> InspectedDataset:
    if not root.is_dir():
        raise InputError(f'{root} is a file, but --task segmentation wants a folder with folders of images and of masks')
    pairs = _image_and_mask_folders(root)
    image_suffix, mask_suffix = _suffixes(*pairs['train'])
    splits, sizes, counts, palette = {}, [], Counter(), []
    for split, (images, masks) in pairs.items():
        names = sorted(file.name.removesuffix(image_suffix) for file in images.iterdir() if file.name.endswith(image_suffix))
        without = [name for name in names if not (masks / (name + mask_suffix)).is_file()]
        if without:
            raise InputError(
                f'{len(without)} of {len(names)} images in {images} have no mask {without[0]}{mask_suffix} in '
                f'{masks}; add them, or move the images away'
            )
        splits[split] = Split(images, masks, names)
        for name in names:
            size = _image_size(images / (name + image_suffix))
            mask, is_palette = _read_mask(masks / (name + mask_suffix))
            if mask.shape != size:
                raise InputError(
                    f'mask {masks / (name + mask_suffix)} is {mask.shape[1]} x {mask.shape[0]}, but its image '
                    f'is {size[1]} x {size[0]}; make them equal'
                )
            sizes.append(size)
            palette += [name] if is_palette else []
            values, pixels = np.unique(mask, return_counts=True)
            for value, number in zip(values.tolist(), pixels.tolist()):
                counts[split, value] += number
    values = sorted({value for _, value in counts} - {UNKNOWN})
    names, zero_is_unknown, notes = _mask_classes(root, values, classes, splits, mask_suffix)
    offset = int(zero_is_unknown)
    unseen = [name for i, name in enumerate(names) if not counts['train', i + offset]]
    if unseen:
        notes.append(f'class {some_of(unseen)} has no pixel in the training masks and cannot be learned')
    if palette:
        notes.append(f'{len(palette)} masks have a palette: the numbers of its colours are taken for the classes')
    total = sum(counts['train', i + offset] for i in range(len(names)))
    shares = ', '.join(f'{name} ({counts["train", i + offset] / max(1, total):.1%})' for i, name in enumerate(names[:20]))
    lines = [_describe_images(splits, sizes), f'{len(names)} classes: {shares}{", ..." if len(names) > 20 else ""}']
    return InspectedDataset(
        'segmentation', root, names, splits, _middle(sizes), image_suffix, mask_suffix, zero_is_unknown, lines, notes
    )


def _image_and_mask_folders(root: Path) -> dict[str, tuple[Path, Path]]:
    """Split -> its folders of images and of masks."""
    folders = [folder for folder in _folders(root) if any(file.suffix.lower() in _IMAGES for file in folder.iterdir())]
    is_mask = {folder: any(_MASK_FOLDERS.search(part) for part in folder.relative_to(root).parts) for folder in folders}
    pairs: dict[str, tuple[Path, Path]] = {}
    for masks in (folder for folder in folders if is_mask[folder]):
        split = _split_of(masks, root) or 'train'
        stems = {file.stem for file in masks.iterdir() if file.suffix.lower() in _IMAGES}
        candidates = [folder for folder in folders if not is_mask[folder] and (_split_of(folder, root) or 'train') == split]
        fitting = {
            folder: sum(
                any(stem.startswith(file.stem) for stem in ([file.stem] if file.stem in stems else stems))
                for file in list(folder.iterdir())[:50]
            )
            for folder in candidates
        }
        images = max(fitting, key=fitting.__getitem__, default=None)
        if images is None or not fitting[images]:
            continue
        if split in pairs:
            raise InputError(f'{pairs[split][1]} and {masks} are both folders of masks for {split}; move one of them away')
        pairs[split] = (images, masks)
    if 'train' not in pairs:
        coco = _coco_files(root)
        hint = f'; for the COCO file {min(coco)} use --task detection or instance' if coco else ''
        raise InputError(
            f'{root} holds no folder of masks beside a folder of images with the same names for training (such '
            f'as images/train and masks/train){hint}'
        )
    return {split: pairs[split] for split in _SPLITS if split in pairs}


def _suffixes(images: Path, masks: Path) -> tuple[str, str]:
    """What follows a name in the folder of images and in that of masks."""
    suffixes = Counter(file.suffix for file in images.iterdir() if file.suffix.lower() in _IMAGES)
    if len(suffixes) > 1:
        raise InputError(f'{images} holds images of several kinds ({some_of(sorted(suffixes))}); convert them to one')
    (suffix,) = suffixes
    first = min(file.stem for file in images.iterdir() if file.suffix == suffix)
    ends = sorted(
        (file.name[len(first) :] for file in masks.iterdir() if file.name.startswith(first) and file.suffix.lower() in _IMAGES),
        key=len,
    )
    if not ends:
        raise InputError(
            f'{masks} has no mask whose name begins with {first}, as its image in {images} is called; name '
            'masks as their images'
        )
    return suffix, ends[0]


def _read_mask(path: Path) -> tuple[np.ndarray, bool]:
    """(H, W) of class numbers as mmsegmentation reads them, and whether they are numbers of a palette's colours."""
    try:
        with Image.open(path) as image:
            mode, mask = image.mode, np.array(image)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f'mask {path} cannot be read as an image ({type(error).__name__}); repair or remove it') from error
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


def _mask_classes(
    root: Path, values: Sequence[int], classes: Sequence[str] | None, splits: dict[str, Split], mask_suffix: str
) -> tuple[list[str], bool, list[str]]:
    """Names of the classes, whether 0 stands for unknown, and notes."""
    notes = []
    if not values:
        raise InputError(
            f'every pixel of the masks in {splits["train"].ground_truth} is {UNKNOWN}, which stands for unknown; '
            'write the number of its class into each'
        )
    listed = root / 'classes.txt'
    if classes is None and listed.is_file():
        try:
            classes = [line.strip() for line in listed.read_text('utf-8').splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise InputError(f'{listed} is not UTF-8 text ({error.reason}); save it as UTF-8') from error
        repeated = _repeated(classes)
        if repeated:
            raise InputError(f'{listed} names {some_of(repeated)} twice; give every class a name of its own')
    if classes is None:
        if values == [0]:
            raise InputError(
                f'the masks in {splits["train"].ground_truth} hold nothing but 0 and {UNKNOWN} (unknown); if '
                f'{UNKNOWN} is the object, write 1 instead'
            )
        classes = [f'class_{i}' for i in range(max(values) + 1)]
        notes.append(f'the classes have no names; give them with --classes, in the order of their numbers, or in {listed}')
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
    masks = (split.ground_truth / (name + mask_suffix) for split in splits.values() for name in split.names)
    stranger = next(path for path in masks if np.isin(_read_mask(path)[0], [v for v in values if v >= len(classes)]).any())
    raise InputError(
        f'mask {stranger} holds the value {max(values)}, but {len(classes)} classes are named '
        f'({some_of(classes)}), 0 to {len(classes) - 1}; name them all, or write {UNKNOWN} where the class is '
        'not known'
    )
