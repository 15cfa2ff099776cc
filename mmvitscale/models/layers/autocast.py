"""What of a model autocast lowers, and what it must leave alone."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map


def no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Within it no product is rounded to 16 bits that is not given so. The meta device, on which things are counted, has no
    autocast."""
    return nullcontext() if device.type == 'meta' else torch.autocast(device.type, enabled=False)


def in_autocast_type(x: Tensor) -> Tensor:
    """A float32 tensor in the type that autocast will give it for the next product, so that what is moved is half as large."""
    kind = x.device.type
    if x.dtype != torch.float32 or kind == 'meta' or not torch.is_autocast_enabled(kind):
        return x
    return x.to(torch.get_autocast_dtype(kind))


@contextmanager
def backbone_in_bfloat16(backbone: nn.Module, device: str, cache: bool = True) -> Iterator[None]:
    """Within it the forward passes of a module run under bfloat16 autocast, and give float32: what follows may know no
    bfloat16, as mmcv's compiled operators on a CPU.

    Args:
        backbone: the module.
        device: its type.
        cache: keep the bfloat16 copies of weights until a forward pass ends.
    """
    running = ExitStack()

    def enter(*_: Any) -> None:
        running.enter_context(torch.autocast(device, dtype=torch.bfloat16, cache_enabled=cache))

    def leave(module: nn.Module, inputs: Any, outputs: Any) -> Any:
        running.close()
        return tree_map(_widened, outputs)  # None where the pass has failed

    hooks = [backbone.register_forward_pre_hook(enter), backbone.register_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _widened(out: Any) -> Any:
    return out.float() if isinstance(out, Tensor) and out.dtype == torch.bfloat16 else out
