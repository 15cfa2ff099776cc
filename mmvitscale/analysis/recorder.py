"""Recording what happens inside a backbone while it runs."""

from contextlib import contextmanager
from typing import Iterator, List

import torch
from torch import Tensor, nn


@contextmanager
def recorded_attention(model: nn.Module) -> Iterator[List[List[Tensor]]]:
    """Within it every forward pass appends a list: block by block, the attention maps (B, heads, N, N) of the modules
    that have ``attention_maps`` (Re-attention and plain self-attention); a row is a query. Testing in windows makes a
    pass for each window.

    The maps are computed a second time beside the kernel in use, so they may be looked at whatever it is.
    """
    passes: List[List[Tensor]] = []
    modules = [module for module in model.modules() if hasattr(module, 'attention_maps')]

    def record(module, inputs):
        if module is modules[0]:
            passes.append([])
        with torch.no_grad():
            passes[-1].append(module.attention_maps(*inputs).float().cpu())

    hooks = [module.register_forward_pre_hook(record) for module in modules]
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()
