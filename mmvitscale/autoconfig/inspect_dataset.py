"""What a user's own data are: found, checked and counted, for a config to be made of it."""

from collections.abc import Sequence
from pathlib import Path

from mmvitscale.autoconfig.coco_folders import inspect_coco
from mmvitscale.autoconfig.layout import InspectedDataset, dark_image, shared_images
from mmvitscale.autoconfig.mask_folders import inspect_masks
from mmvitscale.autoconfig.own_splits import use_own_splits
from mmvitscale.datasets.folders import repeated
from mmvitscale.errors import InputError, some_of


def inspect_dataset(data: str, task: str, classes: Sequence[str] | None = None) -> InspectedDataset:
    """A folder or COCO file, the task (segmentation, detection, instance) and, if wanted, names of classes -> what they are.

    Raises:
        InputError: for data that cannot be trained on, in one sentence.
    """
    path = Path(data).expanduser().resolve()
    if not path.exists():
        raise InputError(f'data {data} are not there; give a folder, or a COCO file')
    twice = repeated(classes or ())
    if twice:
        raise InputError(f'--classes names {some_of(twice)} twice; give every class a name of its own')
    found = inspect_masks(path, classes) if task == 'segmentation' else inspect_coco(path, task, classes)
    if list(found.splits) == ['train']:
        found.notes += use_own_splits(found)
    paths = {
        name: [split.images / (image + split.image_suffix) for image in split.names] for name, split in found.splits.items()
    }
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
    return found
