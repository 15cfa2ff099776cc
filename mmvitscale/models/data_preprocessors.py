"""Data preprocessors that tell the backbone where a batch of unequal images is padded (layers/padding.py)."""

from typing import Any

import torch
from mmdet.models import DetDataPreprocessor
from mmseg.models import SegDataPreProcessor

from ..registry import MODELS
from .layers.padding import with_validity


class _MarksPadding:
    """In front of a data preprocessor: a batch in which an image was filled up gets a last channel that tells where. A batch
    of images that fill it stays as it is."""

    batch_augments: Any

    def forward(self, data: dict, training: bool = False) -> dict:
        """As that of the library's, whose batch augmentations see the channel, too."""
        images = data['inputs']
        sizes = [tuple(image.shape[-2:]) for image in images]
        augments, self.batch_augments = self.batch_augments, None
        try:
            out = super().forward(data, training)  # type: ignore[misc]
        finally:
            self.batch_augments = augments
        inputs = out['inputs']
        if any(size != tuple(inputs.shape[-2:]) for size in sizes):
            inputs = with_validity(inputs, sizes)
        if training and augments is not None:
            for augment in augments if isinstance(augments, torch.nn.ModuleList) else [augments]:
                inputs, out['data_samples'] = augment(inputs, out['data_samples'])
            if inputs.shape[1] > images[0].shape[-3]:  # resized with the images
                inputs[:, -1] = inputs[:, -1].round()
        return {**out, 'inputs': inputs}


@MODELS.register_module()
class DetPaddingPreprocessor(_MarksPadding, DetDataPreprocessor):
    """mmdetection's ``DetDataPreprocessor``, which also tells a DeepViT where images were padded. Arguments as there."""


@MODELS.register_module()
class SegPaddingPreprocessor(_MarksPadding, SegDataPreProcessor):
    """mmsegmentation's ``SegDataPreProcessor``, which also tells a DeepViT where crops were padded in training. Arguments as
    there."""
