"""Splits that a user has made where one file or folder holds all images: in the folders of the images' names, or as lists of
names (train.txt, val.txt, ImageSets of Pascal VOC)."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from mmvitscale.autoconfig.layout import InspectedDataset, Split, describe_images
from mmvitscale.datasets.folders import IMAGES, SPLITS, comparable, folders_of, longest_tails, split_of
from mmvitscale.errors import InputError, some_of


def use_own_splits(found: InspectedDataset) -> list[str]:
    """Divide the images of a data set with training alone as its user did, if there is a sign of it; return notes.

    Raises:
        InputError: for lists of which one image is in two.
    """
    whole = found.splits['train']
    chosen = {name: split_of((found.root / name).parent, found.root) for name in whole.names}
    how, lists = 'by the folders in the names of their files', dict[str, Path]()
    if not {'train', 'val'} <= set(chosen.values()) and not {'train', 'test'} <= set(chosen.values()):
        lists = _lists(found.root, found.task)
        chosen, how = _by_lists(whole, lists), f'as listed in {some_of([path.name for path in lists.values()])}'
    parts = {split: [name for name in whole.names if chosen.get(name) == split] for split in SPLITS}
    parts = {split: names for split, names in parts.items() if names}
    if 'train' not in parts or len(parts) < 2:
        unused = lists and not set(chosen.values()) - {None}
        notes = (
            [f'{some_of([path.name for path in lists.values()])} names none of the images and is not used'] if unused else []
        )
        return [*notes, *_beside(found)]
    left_out = len(whole.names) - sum(map(len, parts.values()))
    found.splits = {split: part_of(whole, names, found.task) for split, names in parts.items()}
    learned = set().union(*(whole.labels[name] for name in parts['train']))
    missing = sorted(map(str, set().union(*whole.labels.values()) - learned))
    if missing:
        raise InputError(
            f'images are split {how}, and class {some_of(missing)} is in none of those for training; split them again, or '
            'leave the class out with --classes'
        )
    found.lines[0] = describe_images(found.splits, [found.size])
    rest = f'; {left_out} that are in none are left out' if left_out else ''
    return [f'images are split {how}{rest}']


def part_of(split: Split, names: list[str], task: str) -> Split:
    """Some of the images of a split, with what their COCO file should hold."""
    part = replace(split, names=names, labels={name: split.labels[name] for name in names})
    if task != 'segmentation':
        content = split.content or json.loads(split.ground_truth.read_bytes())
        kept = set(names)
        images = [image for image in content['images'] if image['file_name'] in kept]
        ids = {image['id'] for image in images}
        annotations = [item for item in content['annotations'] if item['image_id'] in ids]
        part.content = {**content, 'images': images, 'annotations': annotations}
    return part


def _lists(root: Path, task: str) -> dict[str, Path]:
    """Of each split a file with names of images, if there is one. Pascal VOC has lists of its own for segmentation."""
    found: dict[str, Path] = {}
    other = 'main' if task == 'segmentation' else 'segmentation'
    for folder in sorted(folders_of(root), key=lambda folder: folder.name.lower() == other):
        files = {file.stem.lower(): file for file in sorted(folder.glob('*.txt')) if file.is_file()}
        for split, words in SPLITS.items():
            for word in words:
                if word in files:
                    found.setdefault(split, files[word])
    return found


def _by_lists(whole: Split, lists: Mapping[str, Path]) -> dict[str, str | None]:
    """Name of an image -> the split whose list has it. Raises InputError for a line that may be of several images, and for an
    image that two lists have."""
    by_stem: dict[str, list[str]] = {}
    for name in whole.names:
        base = PurePosixPath(name)
        by_stem.setdefault(base.stem if base.suffix.lower() in IMAGES else base.name, []).append(name)
    chosen: dict[str, str | None] = {}
    for split, path in lists.items():
        for line in path.read_text('utf-8-sig', errors='replace').splitlines():
            name = _named(line.strip(), by_stem, path) or _named(line.split()[0] if line.split() else '', by_stem, path)
            if name is not None and chosen.setdefault(name, split) != split:
                raise InputError(f'{name} is in {lists[chosen[name] or split]} and in {path}; leave it in one of them')
    return chosen


def _named(line: str, by_stem: Mapping[str, list[str]], path: Path) -> str | None:
    """The image that a line means: of its name, and in the folders that it names."""
    wanted = PurePosixPath(line.replace('\\', '/'))
    found = by_stem.get(wanted.name) or by_stem.get(wanted.stem) or []
    nearest = longest_tails(list(map(PurePosixPath, found)), list(map(comparable, wanted.parts)))
    if len(nearest) > 1:
        raise InputError(
            f'{path} lists {line}, which may be {some_of(list(map(str, nearest)))}; write the folder before the name'
        )
    return str(nearest[0]) if nearest else None


def _beside(found: InspectedDataset) -> list[str]:
    """A note of COCO files of other splits beside the one that was given."""
    own = found.splits['train'].ground_truth
    others = [path for path in own.parent.glob('*.json') if own.is_file() and path != own]
    others = [path for path in others if split_of(path, own.parent) in ('val', 'test')]
    return (
        [f'{some_of(sorted(path.name for path in others))} beside {own.name} is not used; give the folder as --data']
        if others
        else []
    )
