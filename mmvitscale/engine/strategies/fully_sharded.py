"""FSDP: parameters, gradients and optimizer states sharded over the processes, block by block."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from mmengine._strategy import DDPStrategy
from mmengine.device import get_device
from mmengine.model import is_model_wrapper
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from mmvitscale.checkpoints.loading import backbones_of
from mmvitscale.engine.strategies.consolidated_checkpoints import ConsolidatedCheckpoints
from mmvitscale.models.layers.sync_batch_norm import with_sync_batch_norm
from mmvitscale.registry import STRATEGIES


@STRATEGIES.register_module()
class FSDPStrategy(ConsolidatedCheckpoints, DDPStrategy):
    """PyTorch's ``fully_shard`` (FSDP2) under MMEngine's FlexibleRunner; ZeRO stage 3 (arXiv 1910.02054).

    A block of a backbone of ours is put together for its forward and its backward pass only, the rest of the model once an
    iteration. Names and shapes of parameters stay, so that learning rates by layer and groups without decay hold.

    Args:
        reshard_after_forward: let go of a block's parameters after its forward pass, and gather them again for the backward
            pass: less memory, half as much communication again.
        cpu_offload: keep the shards and the optimizer in the main memory, and put only the block at work on the GPU.
        **kwargs: of MMEngine's DDPStrategy.
    """

    def __init__(self, *, reshard_after_forward: bool = True, cpu_offload: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.reshard_after_forward = reshard_after_forward
        self.cpu_offload = cpu_offload

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        if is_model_wrapper(model):
            return model
        model = self.convert_model(model)
        options = dict(
            mesh=init_device_mesh(get_device(), (self.world_size,)),
            offload_policy=CPUOffloadPolicy() if self.cpu_offload else OffloadPolicy(),
        )
        for backbone in backbones_of(model).values():
            for block in backbone.transformer_blocks():
                fully_shard(block, reshard_after_forward=self.reshard_after_forward, **options)
        fully_shard(model, **options)
        return model

    def convert_model(self, model: nn.Module) -> nn.Module:
        """As MMEngine's, on CPUs as well."""
        if self.sync_bn and get_device() == 'cpu':
            return with_sync_batch_norm(model)
        return super().convert_model(model)

    def model_state_dict(self) -> dict:
        """As MMEngine's, whole in the main memory of the first process and empty in the others; all of them call it."""
        return self._gathered(self.model.state_dict())

    def optim_state_dict(self) -> dict:
        """The same of the optimizer: in the form of a single process."""
        return self._gathered(self.optim_wrapper.state_dict())

    def load_model_state_dict(
        self, state_dict: dict, *, strict: bool = False, revise_keys: Sequence[tuple[str, str]] = ((r'^module\.', ''),)
    ) -> None:
        """Takes a whole one, and keeps this process's shards of it."""
        own = self.model.state_dict()
        shards = OrderedDict((key, _shard(value, own.get(key))) for key, value in state_dict.items())
        shards._metadata = getattr(state_dict, '_metadata', OrderedDict())  # type: ignore[attr-defined]
        super().load_model_state_dict(shards, strict=strict, revise_keys=revise_keys)

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Takes a whole one, and keeps this process's shards of it."""
        parameters = [p for group in self.optim_wrapper.param_groups if 'params' in group for p in group['params']]
        states = {
            index: {key: _shard(value, parameters[index]) for key, value in state.items()}
            for index, state in state_dict['state'].items()
        }
        super().load_optim_state_dict({**state_dict, 'state': states})

    def _gathered(self, value: Any) -> Any:
        """Nested containers with every sharded tensor whole and in the main memory, one at a time; what the others get of
        them is let go."""
        if isinstance(value, DTensor):
            whole = value.full_tensor()
            return whole.cpu() if self.rank == 0 else None
        if isinstance(value, Tensor):
            return value.cpu() if self.rank == 0 else None
        if isinstance(value, dict):
            gathered = type(value)((key, self._gathered(item)) for key, item in value.items())
            if hasattr(value, '_metadata'):
                gathered._metadata = value._metadata  # type: ignore[attr-defined]
            return gathered
        if isinstance(value, (list, tuple)):
            return type(value)(self._gathered(item) for item in value)
        return value


def _shard(value: Any, like: Tensor | None) -> Any:
    """A whole tensor -> this process's shard of it, distributed as ``like`` is; other values as they are."""
    if (
        not isinstance(value, Tensor)
        or isinstance(value, DTensor)
        or not isinstance(like, DTensor)
        or value.shape != like.shape
    ):
        return value
    device = like.to_local().device
    # Every process has read the file: nothing need be sent.
    return distribute_tensor(value.to(like.device_mesh.device_type), like.device_mesh, like.placements, src_data_rank=None).to(
        device
    )
