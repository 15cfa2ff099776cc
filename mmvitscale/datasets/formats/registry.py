"""The annotation formats by name: found in a folder, read, written."""

from pathlib import Path
from types import ModuleType

from mmvitscale.datasets.formats import coco, cvat, label_studio, labelme, masks, voc, yolo
from mmvitscale.datasets.formats.annotations import AnnotatedDataset, Entries
from mmvitscale.datasets.formats.output import written_folder
from mmvitscale.errors import InputError

FORMATS: dict[str, ModuleType] = {
    'coco': coco,
    'yolo': yolo,
    'voc': voc,
    'labelme': labelme,
    'cvat': cvat,
    'label-studio': label_studio,
    'masks': masks,
}
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
        raise InputError(
            f'{root} holds no annotations of a format that is known here ({", ".join(FORMATS)}); choose one with '
            '--format, or give the folder that holds annotations and images'
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
    module = FORMATS[format or find_format(root)[0]]
    if root.is_file() and module is not coco:
        root = root.parent
    dataset: AnnotatedDataset = module.read(root, entries)
    entries.check()
    if not dataset.images:
        raise InputError(f'{root} has no image with annotations in the format {format or find_format(root)[0]}; add them')
    dataset.notes += entries.notes()
    return dataset


def write_dataset(dataset: AnnotatedDataset, out: Path, format: str, overwrite: bool = False, copy_images: bool = True) -> None:
    """A data set as a folder of a format, complete or not there.

    Args:
        out: the folder.
        format: a name of ``FORMATS``.
        overwrite: replace what is there.
        copy_images: copy the images, too; else annotations alone, which lead to the images where the format has their paths.

    Raises:
        InputError: for a folder that is there, or a data set that the format has no place for.
    """
    with written_folder(out, overwrite, copy_images) as output:
        FORMATS[format].write(dataset, output)
