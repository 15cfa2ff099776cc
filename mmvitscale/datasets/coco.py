"""What a COCO annotation file must hold before it is worth starting: https://cocodataset.org/#format-data."""

import json
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from mmvitscale.datasets.annotation_losses import Counts, Use
from mmvitscale.datasets.coco_masks import check_mask
from mmvitscale.datasets.image_size import image_size, promised_size
from mmvitscale.errors import InputError, some_of
from mmvitscale.utils.memory import check_memory_for

# The keys without which mmdet cannot read an entry of each list.
_KEYS = dict(
    images=('id', 'file_name', 'height', 'width'),
    categories=('id', 'name'),
    annotations=('id', 'image_id', 'category_id', 'bbox', 'area'),
)


def check_coco(ann_file: Path, image_folder: Path, classes: Sequence[str], use: Use) -> tuple[Counts, list[str]]:
    """Raise InputError unless mmdet's CocoDataset can use the file; return what the loss or the evaluation will use of it, and
    notes for the user, a line each.

    Args:
        ann_file: a JSON file that exists.
        image_folder: the file names of the images are relative to it.
        classes: the config's class names in order.
        use: in training a list of annotations is needed. Otherwise a file without it (the image_info files of COCO's test
            sets) is fine. With masks, every usable annotation needs one.
    """
    content = read_coco(ann_file)
    check_entries(content, ann_file, annotated=use.training)
    return check_content(content, ann_file, image_folder, classes, use)


def check_content(
    content: dict, ann_file: Path, image_folder: Path, classes: Sequence[str], use: Use, embedded: Collection[str] = ()
) -> tuple[Counts, list[str]]:
    """``check_coco`` of a file that has been read and whose entries have been checked. embedded: names of images that lie
    within annotation files, and are not looked for."""
    annotations = content.get('annotations', [])
    _check_classes([category['name'] for category in content['categories']], classes, ann_file)
    files = [image['file_name'] for image in content['images'] if image['file_name'] not in embedded]
    _check_images(files, image_folder, ann_file)
    check_sizes(content['images'], image_folder, ann_file)
    for kind in ('image', 'category', 'annotation'):
        _check_unique(content.get('categories' if kind == 'category' else f'{kind}s', []), kind, ann_file)
    if use.with_mask:
        _check_masks(content, ann_file)
    counts = Counts.of(content, classes, use)
    if use.with_mask:
        _check_segmentations(annotations, counts, ann_file)
    notes = counts.notes(use.training)
    notes += _notes_on_boxes(content)
    lost = {item['id'] for items in counts.lost.values() for item in items}
    empty = len(content['images']) - len({item['image_id'] for item in annotations if item['id'] not in lost})
    if empty and annotations:
        notes.append(f'{empty} of {len(content["images"])} images have no object')
    return counts, [f'{ann_file}: {note}' for note in notes]


def _notes_on_boxes(content: dict) -> list[str]:
    """Of images and annotations that look like a mistake and are used as they are."""
    sizes = {image['id']: (image['width'], image['height']) for image in content['images']}
    annotations = [item for item in content.get('annotations', []) if item['image_id'] in sizes]
    notes = []
    beyond = []
    for item in annotations:
        (left, top, w, h), (width, height) = item['bbox'], sizes[item['image_id']]
        if left < -1 or top < -1 or left + w > width + 1 or top + h > height + 1:  # a pixel is rounding
            beyond.append(str(item['id']))
    if beyond:
        notes.append(
            f'{len(beyond)} of {len(annotations)} boxes reach beyond their image (ids {some_of(beyond)}); clip them, and if '
            'they are many look whether they are [left, top, right, bottom] in place of [left, top, width, height]'
        )
    again = Counter((item['image_id'], item['category_id'], *item['bbox']) for item in annotations)
    repeated = sum(again.values()) - len(again)
    if repeated:
        notes.append(f'{repeated} annotations repeat another one of their image, with its category and box; remove them')
    files = Counter(image['file_name'] for image in content['images'])
    twice = [name for name, count in files.items() if count > 1]
    if twice:
        notes.append(
            f'{len(twice)} images are listed twice ({some_of(twice)}), so that each lacks the objects of the other; list each '
            'once'
        )
    return notes


def check_sizes(images: Sequence[dict], folder: Path, ann_file: Path, skip_unreadable: bool = True) -> None:
    """Raise InputError where a file gives other sizes than the images have; some fifty are looked at. What cannot be read is
    left to those who read it, or refused."""
    for image in images[:: max(1, len(images) // 50)]:
        path = folder / image['file_name']
        if not path.is_file() or skip_unreadable and promised_size(path) is None:
            continue
        height, width = image_size(path)
        if (height, width) != (image['height'], image['width']):
            if (promised_size(path) or ())[:2] == (image['width'], image['height']):
                raise InputError(
                    f'{ann_file} gives the size of {image["file_name"]} as {image["width"]} x {image["height"]}, but its EXIF '
                    f'orientation turns it to {width} x {height}; turn the image itself and annotate it again'
                )
            raise InputError(
                f'{ann_file} says that {image["file_name"]} is {image["width"]} x {image["height"]}, but it is '
                f'{width} x {height}; export the annotations again, from these images'
            )


def _check_masks(content: dict, ann_file: Path) -> None:
    """Raise InputError for a mask that mmdet or pycocotools cannot read, or would read as another."""
    sizes = {image['id']: (image['width'], image['height']) for image in content['images']}
    for item in content.get('annotations', []):
        if item.get('segmentation') and item['image_id'] in sizes:
            check_mask(item, *sizes[item['image_id']], ann_file)


def _check_segmentations(annotations: Sequence[dict], counts: Counts, ann_file: Path) -> None:
    """Raise InputError for annotations that are used and have no mask."""
    lost = {item['id'] for items in counts.lost.values() for item in items}
    used = [item for item in annotations if item['id'] not in lost]
    bare = [item for item in used if not item.get('segmentation')]
    if bare:
        raise InputError(
            f'{len(bare)} of {len(used)} annotations in {ann_file} have no segmentation (the first: '
            f'id {bare[0]["id"]}), but masks are to be learned; add them, or learn boxes alone '
            '(--task detection of new_config.py; a config such as RetinaNet, with with_mask off in its pipelines)'
        )


def read_coco(ann_file: Path) -> dict:
    """What a file holds. Raises InputError unless it is a JSON object."""
    check_memory_for(ann_file)
    try:
        text = ann_file.read_bytes()
        if text.startswith(BOM_UTF8):
            raise InputError(f'annotation file {ann_file} begins with a byte order mark; save it as UTF-8 without one')
        content = json.loads(text.decode())  # mmdet reads UTF-8 alone
    except InputError:
        raise
    except (RecursionError, ValueError) as error:
        raise InputError(f'annotation file {ann_file} is not JSON in UTF-8 ({error}); export it in COCO format') from error
    if not isinstance(content, dict):
        raise InputError(
            f'annotation file {ann_file} holds a {type(content).__name__}, but COCO format is an object '
            'with images, annotations and categories; export it in COCO format'
        )
    return content


def check_entries(content: dict, ann_file: Path, annotated: bool = True) -> None:
    """Raise InputError unless the lists are there, each entry has the keys that mmdet needs, and a box is one. annotated:
    the list of annotations must be there, too."""
    for name in _KEYS:
        if name in content or annotated or name != 'annotations':
            _check_list(content.get(name), name, ann_file)


def _check_list(entries: object, name: str, ann_file: Path) -> None:
    if not isinstance(entries, list) or (not entries and name != 'annotations'):
        found = 'an empty list of' if entries == [] else 'no list of'
        raise InputError(f'annotation file {ann_file} has {found} {name}; export it in COCO format')
    for index, entry in enumerate(entries):
        check_entry(entry, name, index, ann_file)


def check_entry(entry: Any, name: str, index: int, ann_file: Path) -> None:
    """Raise InputError unless the entry ``index`` of the list ``name`` has the keys that mmdet needs, and a box is one."""
    keys = _KEYS[name]
    missing = [key for key in keys if key not in entry] if isinstance(entry, dict) else keys
    if missing:
        raise InputError(
            f'{name}[{index}] in {ann_file} has no {", ".join(missing)}; export the file in COCO format ({", ".join(keys)})'
        )
    flags = [key for key in ('iscrowd', 'ignore') if name == 'annotations' and key in entry]
    wrong = [key for key in (*keys, *flags) if key != 'bbox' and not _KINDS[key](entry[key])]
    if wrong:
        raise InputError(
            f'{name}[{index}] in {ann_file} has the {wrong[0]} {str(entry[wrong[0]])[:60]!r}'
            f'{", a text" if isinstance(entry[wrong[0]], str) else ""}, but it is {_KINDS_TOLD[wrong[0]]}; correct it'
        )
    if name == 'annotations' and not _is_box(entry['bbox']):
        raise InputError(
            f'annotations[{index}] in {ann_file} has the bbox {entry["bbox"]!r}, but a bbox is [left, '
            'top, width, height] in pixels, the latter two not negative; correct it'
        )


def _is_id(value) -> bool:
    """Whole numbers: pycocotools keeps them in arrays of numbers, and a text equals none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_length(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e9


def _is_name(value) -> bool:
    return isinstance(value, str) and bool(value) and not set(value) & {'\n', '\0'}


# What each key of _KEYS may be.
_KINDS = dict(
    id=_is_id,
    image_id=_is_id,
    category_id=_is_id,
    height=_is_length,
    width=_is_length,
    file_name=_is_name,
    name=_is_name,
    area=lambda value: isinstance(value, (int, float)) and abs(value) < 1e18,
    iscrowd=lambda value: value in (0, 1, None),
    ignore=lambda value: value in (0, 1, None),
)
_KINDS_TOLD = dict(
    id='a whole number',
    image_id='a whole number',
    category_id='a whole number',
    height='a number of pixels',
    width='a number of pixels',
    file_name='a path on one line',
    name='a name on one line',
    area='a number',
    iscrowd='0 or 1',
    ignore='0 or 1',
)


def _is_box(box) -> bool:
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e9 for v in box)
        and min(box[2:]) >= 0
    )


def _check_classes(found: Sequence[str], classes: Sequence[str], ann_file: Path) -> None:
    repeated = sorted({name for name in found if name in classes and found.count(name) > 1})
    if repeated:
        raise InputError(f'annotation file {ann_file} has the category {some_of(repeated)} twice; give each a name of its own')
    missing = [name for name in classes if name not in found]
    if missing:
        raise InputError(
            f'annotation file {ann_file} has the categories {some_of(found)}, but {len(missing)} of '
            f"the config's {len(classes)} classes are not among them ({some_of(missing)}); set "
            'metainfo=dict(classes=(...)) of the data sets, and num_classes of the heads, to the categories'
        )
    in_file = [name for name in found if name in classes]
    if in_file != list(classes):
        # mmdet numbers the labels in the order of the file, and names them in the order of the config.
        raise InputError(
            f'annotation file {ann_file} lists its categories in the order {some_of(in_file)}, but the '
            f'config its classes as {some_of(classes)}, and labels are numbered in the order of the file; write '
            'classes and, where files differ, the list of categories in one order (ids stay as they are)'
        )


def _check_images(names: Sequence[str], folder: Path, ann_file: Path) -> None:
    listings = {}
    missing = []
    for name in names:
        path = folder / name
        if path.parent not in listings:
            listings[path.parent] = {p.name for p in path.parent.iterdir()} if path.parent.is_dir() else set()
        if path.name not in listings[path.parent]:
            missing.append(name)
    if missing and '\\' in missing[0] and (folder / missing[0].replace('\\', '/')).is_file():
        raise InputError(
            f'{ann_file} has the file name {missing[0]} with backslashes, as Windows writes paths; write / in their place'
        )
    if missing:
        raise InputError(
            f'{len(missing)} of {len(names)} images that {ann_file} lists are not in {folder} '
            f'({some_of(missing)}); add them, or correct the file names, or data_prefix=dict(img=...) of the config'
        )


def _check_unique(entries: Sequence[dict], kind: str, ann_file: Path) -> None:
    seen = set()
    for item in entries:
        if item['id'] in seen:
            raise InputError(f'annotation file {ann_file} uses the {kind} id {item["id"]} twice; renumber them')
        seen.add(item['id'])
