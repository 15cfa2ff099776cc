"""Recording what happens inside a backbone while it runs."""

from contextlib import contextmanager
from typing import Iterator, List

import torch
from torch import Tensor, nn


@contextmanager
def recorded_attention(model: nn.Module) -> Iterator[List[Tensor]]:
    """Within it every forward pass appends, block by block, the attention maps (B, heads, N, N) of the modules that
    have ``attention_maps`` (Re-attention and plain self-attention); a row is a query.

    The maps are computed a second time beside the kernel in use, so they may be looked at whatever it is.
    """
    maps: List[Tensor] = []

    def record(module, inputs):
        with torch.no_grad():
            maps.append(module.attention_maps(*inputs).float().cpu())

    hooks = [module.register_forward_pre_hook(record) for module in model.modules() if hasattr(module, 'attention_maps')]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()
