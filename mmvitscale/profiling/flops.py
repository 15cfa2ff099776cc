"""Parameters and multiply-adds, stage by stage."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmvitscale.models import DeepViT, SwinTransformerV2


@dataclass(frozen=True)
class Part:
    """A part of a model, its parameters, and the multiply-adds of its forward pass, None where they were not counted."""

    name: str
    parameters: int
    multiply_adds: int | None


@contextmanager
def _eager_kernels(model: nn.Module) -> Iterator[None]:
    """Attention in matrix products that can be counted."""
    modules = [module for module in model.modules() if isinstance(getattr(module, 'kernel', None), str)]
    before = [module.kernel for module in modules]
    for module in modules:
        module.kernel = 'eager'
    try:
        yield
    finally:
        for module, kernel in zip(modules, before):
            module.kernel = kernel


def multiply_adds(module: nn.Module, *inputs: object) -> tuple[dict[str, int], object]:
    """Multiply-adds of ``module(*inputs)``, of the whole, as '', and of every module inside that has any, by name; and what
    it returns.

    Matrix products and convolutions are counted, by PyTorch's counter, which counts two operations for each multiply-add. No
    pair of tokens is counted that is not computed: windows at the borders of a map have the tokens that they have. All
        happens on the meta device, where fused kernels, which the counter does not see into, are not used.
    """
    module, inputs = copy.deepcopy(module).to('meta'), [_to_meta(x) for x in inputs]
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), _eager_kernels(module), counter:
        outputs = module(*inputs)
    root = type(module).__name__
    found = {'': counter.get_total_flops() // 2}
    for name, operations in counter.get_flop_counts().items():
        if name.startswith(f'{root}.'):
            found[name[len(root) + 1 :]] = sum(operations.values()) // 2
    return found, outputs


def _to_meta(x):
    return tuple(map(_to_meta, x)) if isinstance(x, (list, tuple)) else x.to('meta')


def count_backbone(backbone: nn.Module, height: int, width: int) -> tuple[list[Part], object]:
    """The parts for an image of this size, and what the backbone returns for it. Of a SwinV2 the patch embedding, the stages
    (patch merging included) and the outputs' norms, of a DeepViT the stem, groups of blocks up to each output and the rest;
    the last part is the whole."""
    channels = next(m.in_channels for m in backbone.patch_embed.modules() if isinstance(m, nn.Conv2d))
    counts, outputs = multiply_adds(backbone, torch.zeros(1, channels, height, width, device='meta'))
    parts: list[Part] = [_part(backbone, counts, 'patch embedding', ['patch_embed'])]
    if isinstance(backbone, SwinTransformerV2):
        parts += [_part(backbone, counts, f'stage {i}', [f'stages.{i}']) for i in range(len(backbone.stages))]
    elif isinstance(backbone, DeepViT):
        first = 0
        for last in sorted(backbone.out_indices):
            names = [f'blocks.{i}' for i in range(first, last + 1)]
            parts.append(_part(backbone, counts, f'blocks {first} to {last}', names))
            first = last + 1
    whole = Part('backbone', _parameters(backbone), counts[''])
    rest = whole.parameters - sum(part.parameters for part in parts)
    parts.append(Part('norms, embeddings', rest, counts[''] - sum(part.multiply_adds or 0 for part in parts)))
    return [*parts, whole], outputs


def count_module(name: str, module: nn.Module, *inputs: object) -> tuple[Part, object]:
    """Of a neck or head. Its multiply-adds are None where it does not run on tensors alone."""
    try:
        counts, outputs = multiply_adds(module, *inputs)
        return Part(name, _parameters(module), counts['']), outputs
    except (TypeError, NotImplementedError, RuntimeError, AttributeError, ValueError):
        return Part(name, _parameters(module), None), None


def _part(backbone: nn.Module, counts: dict[str, int], name: str, modules: Sequence[str]) -> Part:
    return Part(name, sum(_parameters(backbone.get_submodule(m)) for m in modules), sum(counts.get(m, 0) for m in modules))


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
