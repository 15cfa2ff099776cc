"""Data pipelines that name the image they cannot take, and look at what they made of it."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from mmengine.dataset import Compose

from mmvitscale.datasets.image_size import check_image_size
from mmvitscale.errors import InputError, comes_from_here, some_of
from mmvitscale.utils.error_translation import message_of


class NamedPipeline(Compose):
    """A pipeline's steps, in the pipeline's place.

    Args:
        pipeline: of a data set.
        num_classes: of the data set; labels of pixels are below. None: not known.
        ignored: the labels of pixels that are left out.

    Raises:
        InputError: when called, with the image and the step, for an image or an annotation that a step cannot take, or
            labels that do not belong to the image or the classes. Defects of our own steps stay what they are.
    """

    def __init__(self, pipeline: Compose, num_classes: int | None = None, ignored: Collection[int] = (255,)):
        super().__init__(None)
        self.transforms = pipeline.transforms
        self.num_classes, self.ignored = num_classes, ignored

    def __call__(self, data: dict) -> dict | None:
        image = data.get('img_path') or data.get('filename') or data.get('img_id', 'a sample')
        labels = data.get('seg_map_path')
        for path in filter(None, (image, labels)):
            check_image_size(path)
        for step in self.transforms:
            try:
                data = step(data)
            except (InputError, MemoryError):
                raise
            except Exception as error:
                if comes_from_here(error):
                    raise
                annotation = f', label map {labels},' if labels else ''
                raise InputError(
                    f'{image}{annotation} does not go through {type(step).__name__} of the data pipeline '
                    f'({message_of(error)}); check the files, and the step'
                ) from error
            if data is None:
                return None
        _check_labels(data, image, labels, self.num_classes, self.ignored)
        return data


def _check_labels(data: Any, image: Any, path: Any, num_classes: int | None, ignored: Collection[int]) -> None:
    """Of semantic segmentation. A label beyond the classes kills a GPU's process without a word of the image."""
    sample = data.get('data_samples') if isinstance(data, dict) else None
    labels = getattr(getattr(sample, 'gt_sem_seg', None), 'data', None)
    if sample is None or not isinstance(labels, torch.Tensor):
        return
    name = f'label map {path or ""} of {image}'.replace('  ', ' ')
    if labels.ndim != 3 or labels.shape[0] != 1:
        raise InputError(
            f'{name} has the shape {tuple(labels.shape)}, but it has one number for each pixel: save it with a '
            'single channel of class indices'
        )
    size = tuple(labels.shape[-2:])
    fields = [sample.get(key) for key in ('img_shape', 'pad_shape', 'ori_shape')] + [getattr(data.get('inputs'), 'shape', None)]
    sizes = [tuple(field[-2:] if i == 3 else field[:2]) for i, field in enumerate(fields) if field is not None]
    if sizes and size not in sizes:
        raise InputError(
            f'{name} is {size[0]} x {size[1]} pixels, but the image is {sizes[0][0]} x {sizes[0][1]}; they have '
            'to be of one size'
        )
    if num_classes is not None:
        beyond = labels[labels >= num_classes]
        beyond = beyond[~torch.isin(beyond, torch.tensor(list(ignored)))] if beyond.numel() else beyond
        if beyond.numel():
            raise InputError(
                f'{name} holds the label {int(beyond.max())}, but there are {num_classes} classes, 0 to '
                f'{num_classes - 1}, and {some_of([str(i) for i in ignored])} for what is left out; correct the '
                'labels, or the classes (reduce_zero_label takes 1 off each)'
            )


def name_pipelines(dataset: Any, ignored: Collection[int] = ()) -> None:
    """Put a ``NamedPipeline`` in the place of each pipeline of a data set, through wrappers. What is no plain Compose stays.
    ignored: labels that the model leaves out."""
    inner: Sequence[Any] = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    for item in inner:
        if item is not None and item is not dataset:
            name_pipelines(item, ignored)
    if type(getattr(dataset, 'pipeline', None)).__name__ == 'Compose' and hasattr(dataset.pipeline, 'transforms'):
        classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
        segments = hasattr(dataset, 'seg_map_suffix')
        dataset.pipeline = NamedPipeline(
            dataset.pipeline,
            len(classes) if segments and classes else None,
            sorted({255, getattr(dataset, 'ignore_index', 255), *ignored}),
        )
