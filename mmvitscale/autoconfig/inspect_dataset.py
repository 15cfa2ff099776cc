"""What a user's own data are: found, checked and counted, for a config to be made of it."""

from collections.abc import Sequence
from pathlib import Path

from mmvitscale.autoconfig.label_maps import inspect_label_maps, inspect_masks
from mmvitscale.autoconfig.layout import InspectedDataset, dark_image, shared_images
from mmvitscale.autoconfig.objects import inspect_annotations, inspect_coco
from mmvitscale.autoconfig.own_splits import use_own_splits
from mmvitscale.datasets.folders import repeated
from mmvitscale.datasets.formats import masks
from mmvitscale.datasets.formats.annotations import Entries
from mmvitscale.datasets.formats.mask_files import mask_pairs
from mmvitscale.datasets.formats.registry import dataset_root, find_format, read_dataset
from mmvitscale.errors import InputError, some_of


def inspect_dataset(
    data: str | Path,
    task: str | None = None,
    classes: Sequence[str] | None = None,
    format: str | None = None,
    skip_invalid: bool = False,
) -> InspectedDataset:
    """Data of any annotation format -> what they are.

    Args:
        data: a folder, or a COCO file.
        task: segmentation, detection or instance. None: by what there is, masks of images, or boxes or masks of objects.
        classes: names of those to learn; where a format does not order them, in this order.
        format: a name of ``formats.registry.FORMATS``. None: by what the folder holds.
        skip_invalid: leave invalid entries out, and list them, in place of refusing the data.

    Raises:
        InputError: for data that cannot be trained on, in one sentence.
    """
    path = dataset_root(data)
    twice = repeated(classes or ())
    if twice:
        raise InputError(f'--classes names {some_of(twice)} twice; give every class a name of its own')
    how = 'by --format'
    if format is None:
        format, how = find_format(path, task)
    if format == 'masks' and task not in (None, 'segmentation'):
        raise InputError(
            f'{path} holds masks of semantic segmentation, which have no objects for --task {task}; use --task segmentation'
        )
    found = _inspected(path, task, classes, format, skip_invalid)
    if list(found.splits) == ['train']:
        found.notes += use_own_splits(found)
    found.lines.insert(0, f'format: {format} ({how}); task: {found.task}{"" if task else _WHY[found.task]}')
    _note_on_images(found)
    return found


_WHY = dict(
    segmentation=' (a mask of each image)',
    instance=' (every object has a mask; --task detection learns boxes alone)',
    detection=' (objects with boxes)',
)


def _inspected(
    path: Path, task: str | None, classes: Sequence[str] | None, format: str, skip_invalid: bool
) -> InspectedDataset:
    if format == 'coco' and task != 'segmentation' and not skip_invalid:
        return inspect_coco(path, task, classes)  # the files as they are
    if format == 'masks' and not skip_invalid:
        pairs = mask_pairs(path)
        of_one_kind = all(pair.image_suffix is not None and pair.mask_suffix is not None for pair in pairs.values())
        if of_one_kind and masks.colour_decoder(path, pairs, classes) is None:
            return inspect_masks(path, pairs, classes)
    entries = Entries(skip_invalid, classes)
    dataset = read_dataset(path, format, entries)
    unsplit = [image for image in dataset.images if image.split is None]
    if 0 < len(unsplit) < len(dataset.images):
        dataset.notes.append(f'{len(unsplit)} images are in no split and are taken for training')
    for image in unsplit:
        image.split = 'train'
    if format == 'masks' or task == 'segmentation':
        found = inspect_label_maps(dataset, classes)
    else:
        found = inspect_annotations(dataset, task, classes)
    found.notes[:0] = dataset.notes
    found.invalid = entries.invalid
    return found


def _note_on_images(found: InspectedDataset) -> None:
    """Notes on images that are in two splits, or too dark."""
    paths = {
        name: [split.images / (image + split.image_suffix) for image in split.names] for name, split in found.splits.items()
    }
    paths = {name: [path for path in own if path.is_file()] for name, own in paths.items()}
    for name in ('val', 'test'):
        shared = shared_images(paths['train'], paths.get(name, ()))
        if shared:
            found.notes.append(
                f'{len(shared)} of {len(paths[name])} images of {name} are also in training (the first: {shared[0]}), so the '
                'score says nothing of new images; keep them apart'
            )
    dark = dark_image(paths['train'])
    if dark is not None:
        found.notes.append(
            f'{dark} has 16 bits a pixel and values of less than a sixteenth of their range: the loaders of images take the '
            'upper 8 bits, so that little is left; scale the images to 8 bits, or load them with '
            'mmvitscale.LoadMultispectralImage'
        )
