"""The annotation formats by name: found in a folder, read, written."""

from collections import Counter
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

from mmvitscale.datasets.folders import repeated
from mmvitscale.datasets.formats import coco, label_studio, labelme
from mmvitscale.datasets.formats.annotations import AnnotatedDataset, Entries
from mmvitscale.datasets.formats.outlines import objects_of
from mmvitscale.datasets.formats.output import written_folder
from mmvitscale.errors import InputError, some_of
from mmvitscale.utils.choices import ANNOTATION_FORMATS

FORMATS: dict[str, ModuleType] = {
    name: import_module(f'mmvitscale.datasets.formats.{name.replace("-", "_")}') for name in ANNOTATION_FORMATS
}
_WITH_CROWDS = ('coco', 'voc')
# Files of names that a message may point to.
_NAME_FILES = ('data.yaml', 'obj.names', 'labelmap.txt', 'classes.txt', 'labels.txt')
# Suffixes of files that stand for the folder that they are in.
_DESCRIPTIONS = ('.yaml', '.yml', '.xml', '.data', '.json')


def dataset_root(data: str | Path) -> Path:
    """A folder, or a file in one such as ``data.yaml`` -> the folder; a COCO file is taken alone. Raises InputError for what is
    not there."""
    path = Path(data).expanduser().resolve()
    if not path.exists():
        raise InputError(f'data {data} are not there; give a folder, or a COCO file')
    is_coco = path.suffix.lower() == '.json' and not (labelme.is_labelme(path) or label_studio.is_label_studio(path))
    if path.is_dir() or is_coco:
        return path
    if path.suffix.lower() not in _DESCRIPTIONS:
        raise InputError(f'data {data} are a file of an unknown kind; give the folder of the images and annotations')
    return path.parent


def find_format(root: Path, task: str | None = None) -> tuple[str, str]:
    """The format of a folder, and what shows it.

    Args:
        root: the folder, or a COCO file.
        task: segmentation, detection or instance, which decides between masks and another format.

    Raises:
        InputError: where there is none, or several that fit.
    """
    if root.is_file():
        return 'coco', 'a COCO file'
    found = {name: how for name, module in FORMATS.items() if (how := module.recognise(root)) is not None}
    if 'masks' in found and len(found) > 1:
        if task == 'segmentation':
            found = {'masks': found['masks']}
        elif task is not None or found.keys() == {'masks', 'voc'}:  # VOC has both
            del found['masks']
    if not found:
        masked = 'such as images/train and masks/train with the same names'
        raise InputError(
            f'{root} holds no annotations in a format that is known here ({", ".join(FORMATS)}); give the folder that holds '
            f'annotations and images{f", {masked}" if task == "segmentation" else ""}, or name the format with --format'
        )
    if len(found) > 1:
        listed = '; '.join(f'{name}: {how}' for name, how in found.items())
        raise InputError(f'{root} holds several formats ({listed}); choose with --format, or move one of them away')
    return next(iter(found.items()))


def read_dataset(root: Path, format: str | None = None, entries: Entries | None = None) -> AnnotatedDataset:
    """A folder of any format in one structure.

    Args:
        root: the folder, or a COCO file.
        format: a name of ``FORMATS``; None: found by what the folder holds.
        entries: what checks the entries, and lists those that are invalid if they are left out.

    Raises:
        InputError: for what cannot be read, with the file and the place in it.
    """
    entries = entries or Entries()
    format = format or find_format(root)[0]
    module = FORMATS[format]
    if root.is_file() and module is not coco:
        root = root.parent
    dataset: AnnotatedDataset = module.read(root, entries)
    entries.check()
    twice = repeated(dataset.classes)
    if twice:
        raise InputError(
            f'{root} names the class {some_of(twice)} twice{_where_named(root)}; give every class a name of its own'
        )
    if not dataset.images:
        raise InputError(f'{root} has no image with annotations in the format {format}; add them')
    dataset.notes += [*entries.notes(), *_shared_between_splits(dataset)]
    return dataset


def _where_named(root: Path) -> str:
    files = [path.name for name in _NAME_FILES for path in root.glob(name)] if root.is_dir() else []
    return f' ({files[0]})' if files else ''


def _shared_between_splits(dataset: AnnotatedDataset) -> list[str]:
    splits: dict[Path, set[str]] = {}
    for image in dataset.images:
        splits.setdefault(image.path, set()).add(image.split or '')
    shared = [path.name for path, own in splits.items() if len(own) > 1]
    return [f'{len(shared)} images are in both of two splits ({some_of(shared)}); keep them apart'] if shared else []


def write_dataset(
    dataset: AnnotatedDataset, out: Path, format: str, overwrite: bool = False, copy_images: bool = True
) -> list[str]:
    """A data set as a folder of a format, complete or not there; notes on what the format has no place for.

    Args:
        out: the folder.
        format: a name of ``FORMATS``.
        overwrite: replace what is there.
        copy_images: copy the images, too; else annotations alone, which lead to the images where the format has their paths.

    Raises:
        InputError: for a folder that is there, or a data set that the format has no place for.
    """
    if format != 'masks' and any(image.label_map for image in dataset.images):
        images = [replace(image, objects=objects_of(image, dataset.classes), label_map=None) for image in dataset.images]
        dataset = replace(dataset, images=images)
    dataset, notes = _writable(dataset, format)
    with written_folder(out, overwrite, copy_images) as output:
        FORMATS[format].write(dataset, output)
    return [*notes, *output.notes]


def _writable(dataset: AnnotatedDataset, format: str) -> tuple[AnnotatedDataset, list[str]]:
    """A data set without what a format has no place for, and what to say of it."""
    images, notes = dataset.images, []
    if any(image.split for image in images) and not all(image.split for image in images):
        notes.append(f'{sum(not image.split for image in images)} images are in no split and are written as training images')
        images = [replace(image, split=image.split or 'train') for image in images]
    crowds = sum(item.crowd for image in images for item in image.objects)
    if crowds and format not in _WITH_CROWDS:
        notes.append(f'{crowds} crowds are left out: {format} has no place for objects that are neither learned nor evaluated')
        images = [replace(image, objects=[item for item in image.objects if not item.crowd]) for image in images]
    return replace(dataset, images=images), notes


def convert_dataset(
    data: str | Path,
    out: Path,
    to: str,
    format: str | None = None,
    entries: Entries | None = None,
    overwrite: bool = False,
    copy_images: bool = True,
) -> list[str]:
    """Data of one format written in another; lines for the user.

    Args:
        data: a folder, or a COCO file.
        out: the folder to write, outside of the data.
        to, format: names of ``FORMATS``; None: found by what the folder holds.
        entries: what checks the entries.
        overwrite, copy_images: as in ``write_dataset``.

    Raises:
        InputError: for what cannot be read or written.
    """
    root, entries = dataset_root(data), entries or Entries()
    how = 'by --format'
    if format is None:
        format, how = find_format(root)
    place = out.expanduser().resolve()
    inside = root if root.is_dir() else root.parent
    if place == inside or place in inside.parents:
        raise InputError(f'OUT {out} holds the data themselves ({inside}); choose another folder')
    dataset = read_dataset(root, format, entries)
    dataset.notes += write_dataset(dataset, place, to, overwrite, copy_images)
    objects = sum(len(image.objects) for image in dataset.images)
    splits = Counter(image.split or 'no split' for image in dataset.images)
    counts = ', '.join(f'{count} {split}' for split, count in splits.items())
    lines = [f'format: {format} ({how})', f'images: {counts}; {objects} objects of {len(dataset.classes)} classes']
    lines += [f'note: {note}' for note in dataset.notes]
    if entries.invalid:
        lines += [f'{len(entries.invalid)} invalid entries are left out:', *(f'  {line}' for line in entries.invalid)]
    return lines
