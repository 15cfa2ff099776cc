"""What a COCO annotation file must hold before it is worth starting: https://cocodataset.org/#format-data."""

import json
from collections.abc import Sequence
from pathlib import Path

from mmvitscale.errors import InputError, some_of

# The keys without which mmdet cannot read an entry of each list.
_KEYS = dict(
    images=('id', 'file_name', 'height', 'width'),
    categories=('id', 'name'),
    annotations=('id', 'image_id', 'category_id', 'bbox', 'area'),
)


def check_coco(ann_file: Path, image_folder: Path, classes: Sequence[str], training: bool, with_mask: bool) -> list[str]:
    """Raise InputError unless mmdet's CocoDataset can use the file; return what it will leave out, a line each.

    Args:
        ann_file: a JSON file that exists.
        image_folder: the file names of the images are relative to it.
        classes: the config's class names in order.
        training: annotations are needed, and at least one must be usable. Otherwise a file without the list (the
            image_info files of COCO's test sets) is fine.
        with_mask: every usable annotation needs a segmentation.
    """
    content = read_coco(ann_file)
    check_entries(content, ann_file, annotated=training, with_mask=with_mask)
    return check_content(content, ann_file, image_folder, classes, training, with_mask)


def check_content(
    content: dict, ann_file: Path, image_folder: Path, classes: Sequence[str], training: bool, with_mask: bool
) -> list[str]:
    """``check_coco`` of a file that has been read and whose entries have been checked."""
    annotations = content.get('annotations', [])
    _check_classes([category['name'] for category in content['categories']], classes, ann_file)
    _check_images([image['file_name'] for image in content['images']], image_folder, ann_file)
    for kind in ('image', 'category', 'annotation'):
        _check_unique(content.get('categories' if kind == 'category' else f'{kind}s', []), kind, ann_file)

    category_names = {category['id']: category['name'] for category in content['categories']}
    known = {category_id for category_id, name in category_names.items() if name in classes}
    sizes = {image['id']: (image['width'], image['height']) for image in content['images']}
    of_classes = [item for item in annotations if item['category_id'] in known and item['image_id'] in sizes]
    usable = [item for item in of_classes if _has_size(item, *sizes[item['image_id']])]
    if training and not usable:
        raise InputError(
            f'annotation file {ann_file} has no box of any of the {len(classes)} classes '
            f'({some_of(classes)}); check the file, or the classes of the config'
        )
    if with_mask:
        _check_segmentations(usable, sizes, ann_file)
    notes = []
    if len(usable) < len(of_classes):
        lost = [str(item['id']) for item in of_classes if not _has_size(item, *sizes[item['image_id']])]
        notes.append(f'{len(lost)} boxes of no size, or outside their image, are left out (annotation ids {some_of(lost)})')
    if len(of_classes) < len(annotations):
        others = sorted(
            {
                category_names.get(item['category_id'], f'id {item["category_id"]}')
                for item in annotations
                if item['category_id'] not in known
            }
        )
        strangers = len([item for item in annotations if item['image_id'] not in sizes])
        if others:
            notes.append(f'categories that are no class of the config are left out ({some_of(others)})')
        if strangers:
            notes.append(f'{strangers} annotations of images that are not listed are left out')
    empty = len(sizes) - len({item['image_id'] for item in usable})
    if empty and annotations:
        notes.append(f'{empty} of {len(sizes)} images have no object')
    return [f'{ann_file}: {note}' for note in notes]


def _check_segmentations(items: Sequence[dict], sizes: dict, ann_file: Path) -> None:
    """Raise InputError for annotations without a mask, or with one of another size than their image's, (width, height)."""
    for item in items:
        width, height = sizes[item['image_id']]
        mask = item.get('segmentation')
        if isinstance(mask, dict) and mask['size'] != [height, width]:
            raise InputError(
                f'the annotation of id {item["id"]} in {ann_file} has a mask of {mask["size"]} pixels, but '
                f'its image has [{height}, {width}]; correct it'
            )
    bare = [item for item in items if not item.get('segmentation')]
    if bare:
        raise InputError(
            f'{len(bare)} of {len(items)} annotations in {ann_file} have no segmentation (the first: '
            f'id {bare[0]["id"]}), but this config learns masks; use a config for boxes only, such '
            'as RetinaNet, with with_mask off in its pipelines'
        )


def read_coco(ann_file: Path) -> dict:
    """What a file holds. Raises InputError unless it is a JSON object."""
    try:
        content = json.loads(ann_file.read_bytes().decode())  # mmdet reads UTF-8 alone
    except (RecursionError, ValueError) as error:
        raise InputError(f'annotation file {ann_file} is not JSON in UTF-8 ({error}); export it in COCO format') from error
    if not isinstance(content, dict):
        raise InputError(
            f'annotation file {ann_file} holds a {type(content).__name__}, but COCO format is an object '
            'with images, annotations and categories; export it in COCO format'
        )
    return content


def check_entries(content: dict, ann_file: Path, annotated: bool = True, with_mask: bool = True) -> None:
    """Raise InputError unless the lists are there, each entry has the keys that mmdet needs, and a box is one. annotated:
    the list of annotations must be there, too."""
    for name, keys in _KEYS.items():
        if name in content or annotated or name != 'annotations':
            _check_list(content.get(name), name, keys, ann_file, with_mask)


def _check_list(entries, name: str, keys: Sequence[str], ann_file: Path, with_mask: bool) -> None:
    if not isinstance(entries, list) or (not entries and name != 'annotations'):
        found = 'an empty list of' if entries == [] else 'no list of'
        raise InputError(f'annotation file {ann_file} has {found} {name}; export it in COCO format')
    for index, entry in enumerate(entries):
        missing = [key for key in keys if key not in entry] if isinstance(entry, dict) else keys
        if missing:
            raise InputError(
                f'{name}[{index}] in {ann_file} has no {", ".join(missing)}; export the file in COCO format ({", ".join(keys)})'
            )
        wrong = [key for key in keys if key != 'bbox' and not _KINDS[key](entry[key])]
        if wrong:
            raise InputError(
                f'{name}[{index}] in {ann_file} has the {wrong[0]} {str(entry[wrong[0]])[:60]!r}, but it is '
                f'{_KINDS_TOLD[wrong[0]]}; correct it'
            )
        if with_mask and name == 'annotations' and not _is_mask(entry.get('segmentation')):
            raise InputError(
                f'annotations[{index}] in {ann_file} has the segmentation {str(entry["segmentation"])[:60]!r}, '
                'but it is '
                'a list of polygons, each a list of numbers x, y, x, y, ..., or a dict of counts and size; '
                'correct it'
            )
        if name == 'annotations' and not _is_box(entry['bbox']):
            raise InputError(
                f'annotations[{index}] in {ann_file} has the bbox {entry["bbox"]!r}, but a bbox is [left, '
                'top, width, height] in pixels; correct it'
            )


def _is_id(value) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


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
)
_KINDS_TOLD = dict(
    id='a number',
    image_id='a number',
    category_id='a number',
    height='a number of pixels',
    width='a number of pixels',
    file_name='a path on one line',
    name='a name on one line',
    area='a number',
)


def _is_mask(mask) -> bool:
    if isinstance(mask, dict):
        size = mask.get('size')
        return (
            isinstance(mask.get('counts'), (str, list))
            and isinstance(size, list)
            and len(size) == 2
            and all(map(_is_length, size))
        )
    return (
        mask is None
        or isinstance(mask, list)
        and all(isinstance(part, list) and all(isinstance(v, (int, float)) and abs(v) < 1e9 for v in part) for part in mask)
    )


def _is_box(box) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(isinstance(v, (int, float)) and abs(v) < 1e9 for v in box)


def _check_classes(found: Sequence[str], classes: Sequence[str], ann_file: Path) -> None:
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
            f'config its classes as {some_of(classes)}; give the classes in the order of the file'
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
    if missing:
        raise InputError(
            f'{len(missing)} of {len(names)} images that {ann_file} lists are not in {folder} '
            f'({some_of(missing)}); add them, or correct data_prefix=dict(img=...)'
        )


def _check_unique(entries: Sequence[dict], kind: str, ann_file: Path) -> None:
    seen = set()
    for item in entries:
        if item['id'] in seen:
            raise InputError(f'annotation file {ann_file} uses the {kind} id {item["id"]} twice; renumber them')
        seen.add(item['id'])


def _has_size(item: dict, width: float, height: float) -> bool:
    """Whether mmdet keeps the box: at least a pixel wide and high, with an area, and partly inside the image."""
    x, y, w, h = item['bbox']
    inside = min(x + w, width) > max(x, 0) and min(y + h, height) > max(y, 0)
    return inside and w >= 1 and h >= 1 and item['area'] > 0
