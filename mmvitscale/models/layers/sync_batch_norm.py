"""BatchNorm over all processes on CPUs, where PyTorch has none."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm


class SyncBatchNorm(_BatchNorm):
    """(B, C, ...) -> (B, C, ...), as ``nn.SyncBatchNorm``, which is for GPUs only: statistics of the batches of all
    processes together in training, unequal ones, too. Same parameters, buffers and names."""

    process_group = None  # all processes

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(x)
        dims = [dim for dim in range(x.ndim) if dim != 1]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        count = wide.new_full((1,), x.numel() / x.shape[1])
        sums = _sum_over_processes(torch.cat((wide.sum(dims), count)))
        count, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
        centred = wide - mean.view(shape)
        var = _sum_over_processes(centred.square().sum(dims)) / count
        self._update_statistics(mean.detach(), var.detach() * (count / (count - 1)))
        out = centred * (var + self.eps).rsqrt().view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(x.dtype)

    @torch.no_grad()
    def _update_statistics(self, mean: Tensor, unbiased_var: Tensor) -> None:
        if not self.track_running_stats:
            return
        self.num_batches_tracked += 1
        momentum = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased_var.to(self.running_var.dtype), momentum)

    def _check_input_dim(self, x: Tensor) -> None:
        if x.ndim < 2:
            raise ValueError(f'BatchNorm takes (B, C, ...), but got {tuple(x.shape)}')


def _sum_over_processes(x: Tensor) -> Tensor:
    return all_reduce(x, group=dist.group.WORLD)


def with_sync_batch_norm(module: nn.Module) -> nn.Module:
    """The module with every BatchNorm in it in the form above; parameters and buffers are the same tensors."""
    if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm):
        norm = SyncBatchNorm(module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats)
        norm._parameters, norm._buffers = module._parameters, module._buffers
        return norm.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, with_sync_batch_norm(child))
    return module
