"""Where a training's numbers stop being finite: the layer, and a batch and weights kept to look at it again."""

import importlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

# In a kept batch: of what type a dict was, and where such types may come from when it is read.
_TYPE = '__type__'
_STRUCTURES = ('mmengine.structures', 'mmdet.structures', 'mmseg.structures', 'mmpretrain.structures')


@dataclass
class Trace:
    """What a forward pass for the loss was seen to do. losses: each term. layers: (name, type, largest absolute value of its
    finite outputs, whether all are finite) in the order in which the layers ended. broken_input: the images themselves are
    NaN or Inf."""

    losses: dict[str, float] = field(default_factory=dict)
    layers: list[tuple[str, str, float, bool]] = field(default_factory=list)
    broken_input: bool = False

    @property
    def terms(self) -> list[str]:
        """The terms that are NaN or Inf, as ``name nan``."""
        return [f'{name} {value}' for name, value in self.losses.items() if not np.isfinite(value)]

    @property
    def first(self) -> str | None:
        """What gave the first NaN or Inf, None if nothing did."""
        if self.broken_input:
            return 'the images'
        layer = next(((name, kind) for name, kind, _, finite in self.layers if not bool(finite)), None)
        if layer:
            return f'{layer[0] or "the model"} ({layer[1]})'
        return 'the loss itself' if self.terms else None


def trace_losses(model: nn.Module, batch: dict) -> Trace:
    """Run a model's forward pass for the loss, without gradients, and watch what comes out of every layer.

    Args:
        model: of MMEngine, without wrappers.
        batch: as its data loader gives it.
    """
    trace = Trace()

    def watch(name: str):
        def hook(module, inputs, outputs):
            values = [value for value in tensors_of(outputs) if value.is_floating_point() and value.numel()]
            if values:
                finite = all(bool(torch.isfinite(value).all()) for value in values)
                largest = max(float(value.nan_to_num(0, 0, 0).abs().max()) for value in values)
                trace.layers.append((name, type(module).__name__, largest, finite))

        return hook

    with ExitStack() as stack, torch.no_grad():
        data = model.data_preprocessor(without_ties(batch), True)
        # The data preprocessor itself is no layer.
        trace.broken_input = not all(
            bool(torch.isfinite(value).all()) for value in tensors_of(data.get('inputs')) if value.is_floating_point()
        )
        for name, module in model.named_modules():
            if not name.startswith('data_preprocessor'):
                stack.callback(module.register_forward_hook(watch(name)).remove)
        losses = model(**data, mode='loss')
    for name, value in losses.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        if 'loss' in name:
            trace.losses[name] = float(sum(item.mean().float() for item in values))
    trace.layers = [layer for layer in trace.layers if layer[0]]
    return trace


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_of(item)


def without_ties(batch: Any) -> Any:
    """A batch -> the same tensors in containers of their own: data preprocessors write padded labels into data samples, and a
    second pass would pad them again."""
    if isinstance(batch, dict):
        return {key: without_ties(item) for key, item in batch.items()}
    if isinstance(batch, (list, tuple)) and not hasattr(batch, '_fields'):
        return type(batch)(without_ties(item) for item in batch)
    return batch.new() if isinstance(batch, BaseDataElement) else batch


def image_paths(batch: Any) -> list[str]:
    """The images of a batch, as far as its data samples contain them."""
    samples = batch.get('data_samples') if isinstance(batch, dict) else None
    return [str(sample.img_path) for sample in samples or [] if getattr(sample, 'img_path', None)]


def pack(value: Any) -> Any:
    """A batch -> tensors, arrays, numbers, strings and plain containers, which ``read_checkpoint`` takes. What is nothing of
    these becomes its description."""
    kind = f'{type(value).__module__}:{type(value).__name__}'
    if isinstance(value, BaseDataElement):
        return {_TYPE: kind, 'metainfo': pack(dict(value.metainfo_items())), 'data': pack(dict(value.items()))}
    if kind.startswith('mmdet.structures'):
        if hasattr(value, 'masks'):
            return {_TYPE: kind, 'masks': pack(value.masks), 'size': (value.height, value.width)}
        if hasattr(value, 'tensor'):
            return {_TYPE: kind, 'boxes': pack(value.tensor)}
    if isinstance(value, dict):
        return {str(key): pack(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [pack(item) for item in value] if isinstance(value, list) else tuple(pack(item) for item in value)
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, (np.ndarray, int, float, str, bytes, type(None))) else repr(value)


def unpack(value: Any) -> Any:
    """What ``pack`` made -> the batch. Raises ValueError for types that are no data of OpenMMLab."""
    if isinstance(value, dict):
        if _TYPE in value:
            structure = _structure(value[_TYPE])
            if 'masks' in value:
                return structure(unpack(value['masks']), *value['size'])
            if 'boxes' in value:
                return structure(unpack(value['boxes']))
            element = structure(metainfo=unpack(value['metainfo']))
            element.set_data(unpack(value['data']))
            return element
        return {key: unpack(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(unpack(item) for item in value)
    return value


def _structure(kind: str) -> Any:
    module, _, name = str(kind).partition(':')
    if not f'{module}.'.startswith(tuple(f'{room}.' for room in _STRUCTURES)) or '.' in name:
        raise ValueError(f'{kind} is no type of data')
    found = getattr(importlib.import_module(module), name)
    if not isinstance(found, type):
        raise ValueError(f'{kind} is no type of data')
    return found
