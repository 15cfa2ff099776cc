"""What stands beside a config: COCO files, lists, label maps and images that the data do not have as OpenMMLab reads them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import ceil
from pathlib import Path

from mmvitscale.autoconfig.layout import InspectedDataset, Split
from mmvitscale.autoconfig.own_splits import part_of
from mmvitscale.autoconfig.validation_split import describe_parts, stratified_part
from mmvitscale.datasets.folders import walk
from mmvitscale.datasets.formats.annotations import AnnotatedImage
from mmvitscale.datasets.formats.coco import PART
from mmvitscale.datasets.formats.colours import label_map_bytes
from mmvitscale.datasets.formats.output import Output, is_written
from mmvitscale.errors import InputError

_INVALID = '# Entries that are left out of {}, since they are invalid:'
_SHOWN = 20  # invalid entries that are printed


def check_free(inspected: InspectedDataset, out: Path, beside: Sequence[Path], force: bool) -> None:
    """Raise InputError where the config, or what is written beside it, would replace data or something of somebody else."""
    own = {part for split in inspected.splits.values() for part in (split.ground_truth, split.images)}
    lost = own & {out.resolve(), *beside}
    if lost:
        raise InputError(f'--out {out} would overwrite the data themselves ({min(lost)}); choose another name')
    taken = [path for path in (out, *beside) if path.exists()]
    if taken and not force:
        raise InputError(f'{taken[0]} is there already; choose another name, or overwrite it with --overwrite')
    strangers = [path for path in beside if path.exists() and not _was_written_here(path, out)]
    if strangers:
        raise InputError(
            f'{strangers[0]} is there already and was not written with {out.name}; choose another name for the config, or move '
            'the file away'
        )


def _was_written_here(path: Path, out: Path) -> bool:
    """Whether a file beside a config belongs to it: the config names it, or it says itself that it is a part."""
    try:
        if path.suffix == '.json' and PART in json.loads(path.read_bytes()):
            return True
        if path.suffix == '.txt' and path.read_text('utf-8').startswith(_INVALID.format(out.name)):
            return True
        if path.is_dir():
            return is_written(path)
        return out.is_file() and path.name in out.read_text('utf-8')
    except (OSError, ValueError):
        return False


def splits_and_files(inspected: InspectedDataset, out: Path) -> tuple[dict[Path, bytes], dict[str, Split], list[str]]:
    """Files to write beside the config, the splits with a validation set and a test set among them, and what to say of it."""
    splits, files = {name: replace(split) for name, split in inspected.splits.items()}, {}
    lines = []

    def beside(name: str, suffix: str) -> Path:
        return out.resolve().with_name(f'{out.stem}_{name}.{suffix}')

    if 'val' not in splits and 'test' in splits:
        splits['val'] = splits['test']
        lines.append('no images for validation: those for testing are used, so that the score chooses the best weights, too')
    if 'val' not in splits:
        whole = splits['train']
        if len(whole.names) < 2:
            raise InputError(f'{whole.images} holds one image, but training and validation need one each; add images')
        kept = stratified_part(whole.labels, ceil(len(whole.names) / 10))
        for name in ('train', 'val'):
            names = [image for image in whole.names if (image in kept) == (name == 'val')]
            splits[name] = part_of(whole, names, inspected.task)
        lines += describe_parts({name: splits[name].labels for name in ('train', 'val')}, inspected)
    for name, split in splits.items():
        if split.content is not None:
            split.ground_truth = beside(name, 'json')
            files[split.ground_truth] = json.dumps(
                {**split.content, PART: inspected.splits['train'].ground_truth.name}
            ).encode()
        elif inspected.task == 'segmentation':
            # mmsegmentation takes all in the folder and in those below it: what is not of this split must not come in.
            inside = sum(name.endswith(split.image_suffix) for _, _, files in walk(split.images) for name in files)
            if inside != len(split.names) or split.label_maps:
                split.listed = beside(name, 'txt')
                files[split.listed] = '\n'.join([*split.names, '']).encode()
    if inspected.invalid:
        files[beside('invalid', 'txt')] = '\n'.join([_INVALID.format(out.name), *inspected.invalid, '']).encode()
        lines.append(f'{len(inspected.invalid)} invalid entries are left out, listed in {out.stem}_invalid.txt:')
        lines += [f'  {line}' for line in inspected.invalid[:_SHOWN]]
    splits.setdefault('test', splits['val'])
    return files, {name: splits[name] for name in ('train', 'val', 'test')}, lines  # val may serve as test


def folders_beside(inspected: InspectedDataset, splits: dict[str, Split], out: Path) -> dict[Path, Callable[[Output], None]]:
    """Folders to write beside the config, and what fills them: label maps that are drawn or decoded, images that lie within
    annotation files. The splits get these folders."""
    folders: dict[Path, Callable[[Output], None]] = {}
    if any(split.label_maps for split in splits.values()):
        place = out.resolve().with_name(f'{out.stem}_masks')
        folders[place] = partial(_write_label_maps, list(splits.values()))
        for split in splits.values():
            split.ground_truth = place
    if inspected.embedded:
        place = out.resolve().with_name(f'{out.stem}_images')
        folders[place] = partial(_write_images, inspected.embedded)
        for split in splits.values():
            split.images = place
    return folders


def _write_label_maps(splits: Sequence[Split], output: Output) -> None:
    for split in splits:
        for name in split.names:
            output.bytes(name + split.mask_suffix, label_map_bytes(split.label_maps[name]()))


def _write_images(images: Sequence[AnnotatedImage], output: Output) -> None:
    for image in images:
        output.bytes(image.name, image.embedded() if image.embedded else image.path.read_bytes())
