"""ZeRO stage 1 inside the plain runner: optimizer states sharded over the processes."""

from collections.abc import Iterable
from typing import Any

import torch.distributed.optim
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import OPTIMIZERS as ROOT_OPTIMIZERS

from mmvitscale.engine.optim.wrappers import wrappers_of
from mmvitscale.registry import OPTIMIZERS


@OPTIMIZERS.register_module()
class ZeroRedundancyOptimizer(torch.distributed.optim.ZeroRedundancyOptimizer):
    """PyTorch's: each process keeps the states of, and updates, its part of the parameters (ZeRO stage 1, arXiv 1910.02054).

    Unlike MMEngine's it takes any registered optimizer, keeps every option of parameter groups, and can be saved by one
    process: ``gather_states`` first, in all of them.

    Args:
        params: parameters or groups of them.
        optimizer_type: registered name of the optimizer, such as AdamW.
        **kwargs: its arguments, and PyTorch's ``parameters_as_bucket_view``.
    """

    def __init__(self, params: Iterable, optimizer_type: str, **kwargs: Any):
        kind = ROOT_OPTIMIZERS.get(optimizer_type) if isinstance(optimizer_type, str) else optimizer_type
        super().__init__(list(params), kind, **kwargs)


def shard_states(optim_wrapper: dict) -> dict:
    """Config of an OptimWrapper -> the same with its optimizer's states sharded. It may be so already, in MMEngine's
    spelling or ours."""
    optimizer = dict(optim_wrapper['optimizer'])
    if str(optimizer['type']).split('.')[-1] != 'ZeroRedundancyOptimizer':
        optimizer['optimizer_type'] = optimizer['type']
    return {**optim_wrapper, 'optimizer': {**optimizer, 'type': 'mmvitscale.ZeroRedundancyOptimizer'}}


def gather_states(optim_wrapper: OptimWrapper | OptimWrapperDict) -> None:
    """Before a checkpoint is written, in every process: bring the states of all to the first one. Without effect on other
    optimizers."""
    for wrapper in wrappers_of(optim_wrapper).values():
        if isinstance(wrapper.optimizer, ZeroRedundancyOptimizer):
            wrapper.optimizer.consolidate_state_dict()
