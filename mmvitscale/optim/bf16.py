"""Mixed precision without loss scaling."""

from contextlib import ExitStack, contextmanager
from typing import Iterator, Tuple

import torch
from mmengine.device import get_device
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from ..registry import OPTIM_WRAPPERS


# The second name is what it was called up to 0.3.0.
@OPTIM_WRAPPERS.register_module(name=['BF16OptimWrapper', 'CPUAmpOptimWrapper'])
class BF16OptimWrapper(OptimWrapper):
    """OptimWrapper whose forward passes run under bfloat16 autocast.

    MMEngine's AmpOptimWrapper needs an accelerator, and scales losses. bfloat16 has float32's range, so none is scaled: it
    is for CPUs, and for FSDP, whose processes see infinities in their own shards only.

    Args:
        backbone_only: leave all but the backbone in float32, where mmcv's compiled operators, which know no bfloat16 on a
            CPU, follow it.
    """

    def __init__(self, *args, backbone_only: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.backbone_only = backbone_only

    @contextmanager
    def optim_context(self, model):
        if self.backbone_only:
            autocast = _lower_precision((model.module if is_model_wrapper(model) else model).backbone)
        else:
            autocast = torch.autocast(get_device(), dtype=torch.bfloat16)
        with super().optim_context(model), autocast:
            yield


@contextmanager
def _lower_precision(module: nn.Module) -> Iterator[None]:
    """Within it the module's forward passes run under bfloat16 autocast, and give float32."""
    running = ExitStack()

    def enter(*_):
        running.enter_context(torch.autocast(get_device(), dtype=torch.bfloat16))

    def leave(module, inputs, outputs: Tuple[Tensor, ...]):
        running.close()
        return None if outputs is None else tuple(out.float() for out in outputs)  # None: the pass has failed

    hooks = [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
