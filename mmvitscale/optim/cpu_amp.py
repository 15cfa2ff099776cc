"""Mixed precision on a CPU."""

from contextlib import ExitStack, contextmanager
from typing import Iterator, Tuple

import torch
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from ..registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """OptimWrapper whose forward passes run under bfloat16 autocast on the CPU.

    MMEngine's AmpOptimWrapper needs an accelerator. bfloat16 has float32's range, so no loss is scaled.

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
            autocast = torch.autocast('cpu', dtype=torch.bfloat16)
        with super().optim_context(model), autocast:
            yield


@contextmanager
def _lower_precision(module: nn.Module) -> Iterator[None]:
    """Within it the module's forward passes run under bfloat16 autocast, and give float32."""
    running = ExitStack()

    def enter(*_):
        running.enter_context(torch.autocast('cpu', dtype=torch.bfloat16))

    def leave(module, inputs, outputs: Tuple[Tensor, ...]):
        running.close()
        return None if outputs is None else tuple(out.float() for out in outputs)  # None: the pass has failed

    hooks = [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
