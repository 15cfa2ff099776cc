"""Products that autocast must leave alone."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Within it no product is rounded to 16 bits that is not given so. The meta device, on which things are counted, has no
    autocast."""
    return nullcontext() if device.type == 'meta' else torch.autocast(device.type, enabled=False)
