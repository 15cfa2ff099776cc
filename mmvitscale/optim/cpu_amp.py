"""Mixed precision on a CPU."""

from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper

from ..registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """OptimWrapper whose forward passes run under bfloat16 autocast on the CPU.

    MMEngine's AmpOptimWrapper needs an accelerator. bfloat16 has float32's range, so no loss is scaled.
    """

    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast('cpu', dtype=torch.bfloat16):
            yield
