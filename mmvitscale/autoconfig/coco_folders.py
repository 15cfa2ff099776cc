"""Data in COCO format: files, splits, classes and images found and checked."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from mmvitscale.autoconfig.layout import MASK_FOLDERS, PART, InspectedDataset, Split, describe_images, middle
from mmvitscale.datasets.annotation_losses import Use, find_losses
from mmvitscale.datasets.coco import check_content, check_entries, check_sizes, read_coco
from mmvitscale.datasets.folders import SPLITS, comparable, folders_of, images_below, repeated, split_of
from mmvitscale.errors import InputError, some_of

# COCO's own files of other tasks.
_OTHER_TASKS = re.compile(r'(captions|person_keypoints|panoptic|stuff|image_info)_(train|val|test|unlabeled)')
_KEY_POINTS = re.compile(r'(captions|panoptic|stuff|image_info)_(train|val|test|unlabeled)')


def inspect_coco(path: Path, task: str, classes: Sequence[str] | None) -> InspectedDataset:
    """A COCO file or a folder with some, the task, and names of classes to learn, if not all -> what was found. Raises
    InputError for what cannot be trained on."""
    root = path if path.is_dir() else path.parent
    if root.name == 'annotations' and not path.is_dir():
        root = root.parent  # COCO's own layout, with the images beside that folder
    found = coco_files(root) if path.is_dir() else {path: read_coco(path)}
    if not found:
        found = coco_files(root, _KEY_POINTS)  # which have boxes and masks, too
    if not found:
        masks = [folder for folder in folders_of(root) if MASK_FOLDERS.search(folder.name) and any(images_below(folder))]
        hint = f'for the masks in {masks[0]} use --task segmentation' if masks else _how_to_export(root)
        raise InputError(f'{root} holds no COCO file (JSON with images, annotations and categories); {hint}')
    chosen = _chosen(path, root, found)
    contents = {split: found[chosen[split]] for split in SPLITS if split in chosen}
    for split, content in contents.items():
        _check_lists(content, chosen[split])
    names, notes = _coco_classes(contents, chosen, classes)
    splits, sizes = {}, []
    order = [category['name'] for category in contents['train']['categories']]
    for split, content in contents.items():
        images = [image['file_name'] for image in content['images']]
        folder = _image_folder(chosen[split], images, root, split_of(chosen[split], root) or split)
        check_sizes(content['images'], folder, chosen[split], skip_unreadable=False)
        ordered = _in_order(content, order)
        use = Use(split == 'train', task == 'instance')
        counts, own = check_content(ordered, chosen[split], folder, names, use)
        counts.check([chosen[split]], names, use.training)
        notes += own
        splits[split] = Split(folder, chosen[split], images, _labels_of(ordered, names, use))
        if ordered is not content:
            splits[split].content = ordered
            notes.append(
                f'{chosen[split]} has its categories in another order than {chosen["train"]}, in which labels are numbered: a '
                'copy in the order of the latter is written beside the config'
            )
        sizes += [(image['height'], image['width']) for image in content['images']]
    lines = [describe_images(splits, sizes), *_describe_boxes(contents['train'], names)]
    per_image = Counter(item['image_id'] for content in contents.values() for item in content['annotations'])
    most = max(per_image.values())
    return InspectedDataset(task, root, names, splits, middle(sizes), min(map(min, sizes)), most, lines=lines, notes=notes)


def _chosen(path: Path, root: Path, found: Iterable[Path]) -> dict[str, Path]:
    """Split -> its file. Raises InputError where there are two for one, or none for training."""
    chosen: dict[str, Path] = {}
    for file in found:
        split = path.is_dir() and split_of(file, root) or 'train'
        if split in chosen:
            raise InputError(
                f'{chosen[split]} and {file} are both COCO files for {split}; give one of them as --data, or '
                'move the other away'
            )
        chosen[split] = file
    if 'train' not in chosen:
        raise InputError(
            f'{root} has COCO files for {some_of(sorted(chosen))} ({min(chosen.values())}), but none for training; give '
            'that one a name such as train.json'
        )
    return chosen


def _in_order(content: dict, names: Sequence[str]) -> dict:
    """A file's content with its categories in this order; itself where they are."""
    if [category['name'] for category in content['categories']] == list(names):
        return content
    return {**content, 'categories': sorted(content['categories'], key=lambda category: names.index(category['name']))}


def _labels_of(content: dict, names: Sequence[str], use: Use) -> dict[str, set]:
    """Of each image, by its name, the classes of the objects in it that are used."""
    files = {image['id']: image['file_name'] for image in content['images']}
    categories = {category['id']: category['name'] for category in content['categories']}
    labels: dict[str, set] = {name: set() for name in files.values()}
    for item, cause in find_losses(content, names, use):
        if cause is None:
            labels[files[item['image_id']]].add(categories[item['category_id']])
    return labels


def _how_to_export(root: Path) -> str:
    kinds = {path.suffix.lower() for folder in folders_of(root) for path in folder.iterdir()}
    known = {'.txt': 'YOLO (.txt)', '.xml': 'Pascal VOC (.xml)', '.json': 'another program (.json)'}
    found = [name for suffix, name in known.items() if suffix in kinds]
    others = f'; those of {" or ".join(found)} are not read' if found else ''
    return f'export the annotations in COCO format{others}'


def _check_lists(content: dict, path: Path) -> None:
    if not all(isinstance(content.get(key), list) for key in ('images', 'annotations', 'categories')):
        raise InputError(
            f'{path} is no COCO file, which has lists of images, annotations and categories; export it in COCO format'
        )
    check_entries(content, path)


def coco_files(root: Path, passed_over: re.Pattern = _OTHER_TASKS) -> dict[Path, dict]:
    """The files below the root with boxes in COCO's form, and what they hold; captions and key points are COCO's own further
    files."""
    found = {}
    for folder in folders_of(root):
        for file in sorted(path for path in folder.iterdir() if path.suffix.lower() == '.json' and path.is_file()):
            if passed_over.match(file.name) or file.name.startswith('._'):
                continue
            try:
                content = read_coco(file)
            except InputError:
                if any(key in file.read_bytes() for key in (b'"images"', b'"annotations"', b'"categories"')):
                    raise  # cut off, say: without it there would be another split
                continue  # some other JSON
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
    twice = repeated(names)
    if twice:
        raise InputError(f'{files["train"]} has the category {some_of(twice)} twice; give each a name of its own')
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
    folders = sorted({file.parent, *folders_of(root)}, key=lambda folder: (split_of(folder, root) != split, folder))
    found = max(folders, key=lambda folder: sum((folder / name).is_file() for name in some))
    if not any((found / name).is_file() for name in some):
        first = names[0] if names else 'none'
        if '\\' in first:
            raise InputError(
                f'{file} has the file name {first} with backslashes, as Windows writes paths; write / in their place'
            )
        like = next(
            (path for path in images_below(root) if comparable(path.stem) == comparable(PurePosixPath(first).stem)), None
        )
        if like is not None:
            raise InputError(
                f'{file} lists the image {first}, which is not below {root}, but {like.relative_to(root)} is; correct the file '
                'names, or the names of the images'
            )
        raise InputError(
            f'none of the images that {file} lists is below {root} (the first: {first}); give the folder that '
            'holds both as --data'
        )
    return found


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
