"""Whether something is attached to a module: then it is called, as every module is, where otherwise its weights are read."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules import module as _torch_module

from mmvitscale.models.layers.autocast import no_autocast

_HOOKS = ('_forward_pre_hooks', '_forward_hooks', '_backward_pre_hooks', '_backward_hooks')
# Of all modules of a process, as PyTorch's profilers and FLOP counters register them.
_GLOBAL_HOOKS = [getattr(_torch_module, f'_global{name}') for name in _HOOKS]


def is_plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a module is of one of these types itself, and a call of it would compute what this type computes with its
    parameters and nothing more.

    LoRA and other adapters, quantization and FSDP put another module in its place, ``torch.nn.utils.parametrize`` another
    type; pruning, weight norm and whoever looks at outputs register hooks.
    """
    return (
        type(module) in kinds
        and not any(getattr(module, name) for name in _HOOKS)
        and not any(_GLOBAL_HOOKS)
        and 'forward' not in module.__dict__
    )


def weight_in(module: nn.Module) -> Tensor:
    """A floating-point tensor of a module, for its type and device: of quantized layers, which have none, an empty one.
    Replicas of ``nn.DataParallel`` hold their weights as plain attributes."""
    for part in module.modules():
        for values in (part._parameters, part.__dict__, part._buffers):
            for value in values.values():
                if isinstance(value, Tensor) and value.is_floating_point():
                    return value
    return torch.empty(0)


def matrix_and_bias(module: nn.Module, channels: int) -> tuple[Tensor, Tensor]:
    """A module that maps (B, channels, h, w) to (B, C, h, w), one affine function at every place -> its matrix (C, channels)
    and bias (C,), by one call, with all that is attached to it."""
    like = weight_in(module)
    probe = torch.cat((torch.eye(channels), torch.zeros(channels, 1)), dim=1).to(like)
    with no_autocast(probe.device):
        out = module(probe[None, :, :, None])[0, :, :, 0]
    bias = out[:, -1]
    return out[:, :-1] - bias[:, None], bias


def gain_and_shift_in_evaluation(norm: nn.Module, like: Tensor) -> tuple[Tensor, Tensor]:
    """A normalisation whose evaluation multiplies and shifts each of C channels -> both, (C,), by one call, with all that is
    attached to it. like: (C,), of its type."""
    modes = [(part, part.training) for part in norm.modules()]
    probe = torch.stack((torch.zeros_like(like), torch.ones_like(like)), dim=1)[None, :, :, None]
    norm.eval()
    try:
        with no_autocast(like.device):
            # With statistics of its own: those of the norm change before the backward pass.
            out: Any = functional_call(norm, {name: buffer.clone() for name, buffer in norm.named_buffers()}, (probe,))
    finally:
        for part, mode in modes:
            part.training = mode
    return out[0, :, 1, 0] - out[0, :, 0, 0], out[0, :, 0, 0]
