"""Data preprocessors that mark for the backbone where a batch of unequal images is padded (layers/padding.py)."""

from functools import cache
from typing import Any

import torch
from torch import nn

from mmvitscale.models.layers.padding import with_validity
from mmvitscale.registry import MODELS

# What marks the inside of images while batch augmentations run: far from any value that they fill images up with.
_INSIDE = 2.0**20


class _MarksPadding:
    """In front of a library's data preprocessor: a batch in which an image was filled up gets a last channel that marks where.
    A batch of images that fill it stays as it is."""

    batch_augments: Any

    def __reduce__(self) -> Any:
        return _unpickled, (type(self).__mro__[2],), super().__getstate__()  # type: ignore[misc]

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """As that of the library's, whose batch augmentations see the channel, too."""
        images = data['inputs']
        sizes = [tuple(image.shape[-2:]) for image in images]
        augments, self.batch_augments = self.batch_augments, None
        try:
            out = super().forward(data, training)  # type: ignore[misc]
        finally:
            self.batch_augments = augments
        inputs = out['inputs']
        if training and augments is not None:
            inputs = with_validity(inputs, sizes)
            inputs[:, -1] *= _INSIDE
            for augment in augments if isinstance(augments, nn.ModuleList) else [augments]:
                inputs, out['data_samples'] = augment(inputs, out['data_samples'])
            inside, inputs = inputs[:, -1] > _INSIDE / 2, inputs[:, :-1]  # resized and padded with the images
            sizes = [tuple(size) for size in torch.stack([inside.any(2).sum(1), inside.any(1).sum(1)], 1).tolist()]
        if any(size != tuple(inputs.shape[-2:]) for size in sizes):
            inputs = with_validity(inputs, sizes)
        return {**out, 'inputs': inputs}


@cache
def _marking(base: type) -> type:
    return type(f'{base.__name__}WithPadding', (_MarksPadding, base), {})


def _unpickled(base: type) -> nn.Module:
    kind: Any = _marking(base)
    return kind.__new__(kind)


@MODELS.register_module(name='DetPaddingPreprocessor')
def det_padding_preprocessor(**options: Any) -> nn.Module:
    """mmdetection's ``DetDataPreprocessor``, which also marks for a DeepViT where images are padded. Arguments as there."""
    from mmdet.models import DetDataPreprocessor  # only where it is used: other tasks need no mmdetection

    return _marking(DetDataPreprocessor)(**options)


@MODELS.register_module(name='SegPaddingPreprocessor')
def seg_padding_preprocessor(**options: Any) -> nn.Module:
    """mmsegmentation's ``SegDataPreProcessor``, which also marks for a DeepViT where crops are padded in training. Arguments as
    there."""
    from mmseg.models import SegDataPreProcessor

    return _marking(SegDataPreProcessor)(**options)
