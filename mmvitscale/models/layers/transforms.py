"""What of PyTorch is at work around a forward pass: ``torch.func``, a compiler, a mode under which tensors hold nothing."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from mmvitscale.errors import InputError

_functorch_is_active = getattr(torch._C, '_are_functorch_transforms_active', lambda: False)


def in_functorch() -> bool:
    """Whether ``torch.func`` (vmap, grad, jvp) is at work."""
    return not torch.compiler.is_compiling() and _functorch_is_active()


def takes_no_functions() -> bool:
    """Whether plain operations must stand in place of our autograd functions: under ``torch.func``, and in a TorchScript trace,
    in which MMEngine counts multiply-adds."""
    return torch.jit.is_tracing() or in_functorch()


def tensors_hold_numbers() -> bool:
    """Whether a tensor made now has values: not under a FakeTensorMode, in which shapes alone are computed."""
    return type(torch.empty(0, device='cpu')) is torch.Tensor


def may_cache() -> bool:
    """Whether a tensor made now can serve later: one of a graph, of ``torch.func`` or of a FakeTensorMode cannot."""
    return not torch.compiler.is_compiling() and not in_functorch() and tensors_hold_numbers()


class _Once(Function):
    """Gradients unchanged; what they were made of stands before them, so that whoever differentiates them comes here."""

    @staticmethod
    def forward(ctx: Any, number: int, *gradients_and_sources: Any) -> Any:
        return tuple(grad.view_as(grad) for grad in gradients_and_sources[:number])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise InputError(
            "second derivatives found, which this kernel of attention does not have; set attention='eager' in the backbone"
        )


def once(grads: Sequence[Tensor | None], sources: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """For the end of a backward pass without a graph of its own: the same gradients, whose derivative raises InputError where
    it would silently be zero. sources: all that the gradients were made of, as it stands in the graph."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return tuple(grads)
    given = [grad for grad in grads if grad is not None]
    marked = iter(_Once.apply(len(given), *given, *(source for source in sources if source is not None)))
    return tuple(None if grad is None else next(marked) for grad in grads)
