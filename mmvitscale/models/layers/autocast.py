"""Products that autocast must leave alone."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


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
