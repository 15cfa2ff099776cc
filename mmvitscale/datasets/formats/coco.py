"""COCO: one JSON file of a split with images, annotations and categories (https://cocodataset.org/#format-data)."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mmvitscale.datasets.coco import check_entries, check_entry, read_coco
from mmvitscale.datasets.coco_masks import check_mask
from mmvitscale.datasets.folders import SPLITS, ImageIndex, comparable, files_in, folders_of, images_below, repeated, split_of
from mmvitscale.datasets.formats.annotations import (
    AnnotatedDataset,
    AnnotatedImage,
    AnnotatedObject,
    Entries,
    mentions,
    starts_with,
)
from mmvitscale.datasets.formats.outlines import area_of
from mmvitscale.datasets.formats.output import Output
from mmvitscale.errors import InputError, some_of

PART = 'part_of'  # key of a COCO file that was made of another one, beside a config
# COCO's own files of other tasks.
OTHER_TASKS = re.compile(r'(?i)(captions|person_keypoints|panoptic|stuff|image_info)_\w+')
KEY_POINTS = re.compile(r'(?i)(captions|panoptic|stuff|image_info)_\w+')
_LISTS = (b'"images"', b'"annotations"', b'"categories"')


def recognise(root: Path) -> str | None:
    """How a folder shows that it is in this format, or None."""
    for folder in folders_of(root):
        for file in files_in(folder, '.json'):
            # One of them may be cut off.
            has = [key for key in _LISTS if mentions(file, key)]
            if (
                b'"annotations"' in has
                and len(has) > 1
                and starts_with(file, b'{')
                and not mentions(file, f'"{PART}"'.encode())
            ):
                return f'{file.relative_to(root)} has images, annotations and categories'
    return None


def coco_files(root: Path, passed_over: re.Pattern = OTHER_TASKS) -> dict[Path, dict]:
    """The files below the root with boxes in COCO's form, and what they hold; captions and key points are COCO's own further
    files."""
    found = {}
    for folder in folders_of(root):
        for file in files_in(folder, '.json'):
            if passed_over.match(file.name):
                continue
            # Before it is read: other programs' files may be large.
            if not any(mentions(file, key) for key in _LISTS):
                continue
            try:
                content = read_coco(file)
            except InputError:
                if mentions(file, b'"shapes"') or mentions(file, b'"original_width"'):
                    continue  # LabelMe's, Label Studio's
                raise  # cut off, say: without it there would be another split
            if {'images', 'annotations', 'categories'} <= set(content) and PART not in content:
                found[file] = content
    return found


def chosen_files(path: Path, root: Path, found: Iterable[Path]) -> dict[str, Path]:
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


def check_lists(content: dict, path: Path) -> None:
    """Raise InputError unless the lists of COCO are there, with entries that mmdet can read."""
    if not all(isinstance(content.get(key), list) for key in ('images', 'annotations', 'categories')):
        raise InputError(
            f'{path} is no COCO file, which has lists of images, annotations and categories; export it in COCO format'
        )
    check_entries(content, path)


def image_folder(file: Path, names: Sequence[str], root: Path, split: str) -> Path:
    """Where the images of a COCO file are: the folder in which most of some of them are found."""
    some = names[:: max(1, len(names) // 50)]
    folders = sorted({file.parent, *folders_of(root)}, key=lambda folder: (split_of(folder, root) != split, folder))
    # Those of another split may have images of the same names.
    own = [folder for folder in folders if split_of(folder, root) in (split, None)]
    found = max(own or folders, key=lambda folder: sum((folder / name).is_file() for name in some))
    if not any((found / name).is_file() for name in some):
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


def read(root: Path, entries: Entries) -> AnnotatedDataset:
    """A folder in this format. Raises InputError for what cannot be read as a whole; ``entries`` keeps invalid objects."""
    path = root
    root = root if root.is_dir() else root.parent.parent if root.parent.name == 'annotations' else root.parent
    found = (coco_files(root) or coco_files(root, KEY_POINTS)) if path.is_dir() else {path: read_coco(path)}
    if not found:
        raise InputError(f'{root} holds no COCO file (JSON with images, annotations and categories); give the folder of one')
    chosen = chosen_files(path, root, found)
    classes: list[str] = []
    images: list[AnnotatedImage] = []
    for split in (split for split in SPLITS if split in chosen):
        content, file = found[chosen[split]], chosen[split]
        check_entries({**content, 'annotations': [], 'images': content['images'][:1]}, file)
        names = {category['id']: category['name'] for category in content['categories']}
        twice = repeated(list(names.values()))
        if twice:
            raise InputError(f'{file} has the category {some_of(twice)} twice; give each a name of its own')
        classes += [name for name in names.values() if name not in classes]
        images += _images(content, file, root, split, names, entries)
    return AnnotatedDataset(root, classes, images)


def _images(content: dict, file: Path, root: Path, split: str, names: dict[int, str], entries: Entries) -> list[AnnotatedImage]:
    listed = [entry for entry in content['images'] if isinstance(entry, dict) and isinstance(entry.get('file_name'), str)]
    folder = image_folder(file, [entry['file_name'] for entry in listed], root, split_of(file, root) or split)
    found: dict[int, AnnotatedImage] = {}
    others = ImageIndex(folder)  # for names that are written in another way
    of_path: dict[Path, AnnotatedImage] = {}
    for index, entry in enumerate(content['images']):
        with entries.entry():
            check_entry(entry, 'images', index, file)
            where = f'images[{index}] in {file}'
            path = folder / entry['file_name']
            path = path if path.is_file() else others.find(entry['file_name'], folder, where)
            if entry['id'] in found:
                raise InputError(f'{where} has the id {entry["id"]} of another image; renumber them')
            height, width = entries.size(path, (entry['height'], entry['width']), where)
            name = path.relative_to(root).as_posix() if path.is_relative_to(root) else entry['file_name']
            # One that is listed twice has the objects of both.
            found[entry['id']] = of_path.setdefault(path, AnnotatedImage(path, name, height, width, split=split))
    lost = {entry['id'] for entry in listed if isinstance(entry.get('id'), int)} - set(found)
    for index, item in enumerate(content['annotations']):
        with entries.entry():
            check_entry(item, 'annotations', index, file)
            if item['image_id'] in lost:
                raise InputError(f'annotations[{index}] in {file} is of image {item["image_id"]}, which is invalid; mend it')
            if item['image_id'] not in found or item['category_id'] not in names:
                raise InputError(
                    f'annotations[{index}] in {file} is of image {item["image_id"]} and category {item["category_id"]}, one of '
                    'which is not listed; correct or remove it'
                )
            image, where = found[item['image_id']], f'annotations[{index}] in {file}'
            image.objects.append(_object(item, names[item['category_id']], image, file, where, entries))
    return list(of_path.values())


def _object(item: dict, name: str, image: AnnotatedImage, file: Path, where: str, entries: Entries) -> AnnotatedObject:
    left, top, width, height = item['bbox']
    score = item.get('score')
    found = entries.object(
        where, (image.height, image.width), name, box=(left, top, left + width, top + height),
        score=float(score) if isinstance(score, (int, float)) else None,
    )  # fmt: skip
    if item.get('segmentation'):
        check_mask(item, image.width, image.height, file)
        parts = item['segmentation'] if isinstance(item['segmentation'], list) else []
        short = next((part for part in parts if len(part) < 6 or len(part) % 2), None)
        if short is not None:
            raise InputError(
                f'{where} has a polygon of {len(short) / 2:g} points, but it takes three or more; correct or remove it'
            )
        found.segmentation = item['segmentation']
    found.crowd = bool(item.get('iscrowd') or item.get('ignore'))
    return found


def content_of(images: Sequence[AnnotatedImage], classes: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """What a COCO file of these images holds: ids from 1, areas of masks where there are some. names: of the image files, as
    the file has them."""
    annotations: list[dict[str, Any]] = []
    numbers = {name: i for i, name in enumerate(classes, 1)}
    for number, image in enumerate(images, 1):
        for item in image.objects:
            left, top, right, bottom = item.box
            width, height = right - left, bottom - top
            area = width * height if item.segmentation is None else area_of(item, image.height, image.width)
            entry = dict(id=len(annotations) + 1, image_id=number, category_id=numbers[item.category])
            more = {} if item.segmentation is None else dict(segmentation=item.segmentation)
            score = {} if item.score is None else dict(score=item.score)
            annotations.append(
                {**entry, 'bbox': [left, top, width, height], 'area': area, 'iscrowd': int(item.crowd), **more, **score}
            )
    listed = [
        dict(id=i, file_name=name, width=image.width, height=image.height)
        for i, (image, name) in enumerate(zip(images, names), 1)
    ]
    categories = [dict(id=i, name=name) for name, i in numbers.items()]
    return dict(images=listed, annotations=annotations, categories=categories)


def write(dataset: AnnotatedDataset, output: Output) -> None:
    """``train.json`` and the folder ``train``, and so for each split; a confidence becomes ``score``."""
    for split in dict.fromkeys(image.split for image in dataset.images):
        folder = split or 'images'
        images = dataset.of_split(split)
        content = content_of(images, dataset.classes, [output.image(image, folder) for image in images])
        output.text(f'{split or "annotations"}.json', json.dumps(content) + '\n')
