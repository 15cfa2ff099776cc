"""Mixed precision without loss scaling."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from torch import nn

from mmvitscale.models.layers.autocast import backbone_in_bfloat16
from mmvitscale.registry import OPTIM_WRAPPERS


# The second name is what it was called up to 0.3.0.
@OPTIM_WRAPPERS.register_module(name=['BF16OptimWrapper', 'CPUAmpOptimWrapper'])
class BF16OptimWrapper(OptimWrapper):
    """OptimWrapper whose forward passes run under bfloat16 autocast.

    MMEngine's AmpOptimWrapper needs an accelerator, and scales losses. bfloat16 has float32's range, so none is scaled: it
    is for CPUs, and for FSDP, whose processes see infinities in their own shards only.

    Args:
        backbone_only: leave all but the backbone in float32, where mmcv's compiled operators, which know no bfloat16 on a
            CPU, follow it.
        cache: keep the bfloat16 copies of weights until the forward pass ends. Without, a copy that serves twice is made
            twice; under FSDP the cache would hold all weights of the model.
    """

    def __init__(self, *args: Any, backbone_only: bool = False, cache: bool = True, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.backbone_only, self.cache = backbone_only, cache

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """As MMEngine's, in bfloat16."""
        if self.backbone_only:
            model_itself = model.module if is_model_wrapper(model) else model
            autocast = backbone_in_bfloat16(model_itself.backbone, get_device(), self.cache)
        else:
            autocast = torch.autocast(get_device(), dtype=torch.bfloat16, cache_enabled=self.cache)
        with super().optim_context(model), autocast:
            yield
