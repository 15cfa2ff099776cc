"""How often a step goes over memory: the tensors that its operations read and write, and their bytes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What stays between two operations in the second-level cache of a core, in bytes; larger tensors come from memory, or from the
# third level, which cores and machines share.
CACHED_BYTES = 2**20
# Operations that write into a tensor without reading it.
_ONLY_WRITE = ('copy_', 'fill_', 'zero_', 'normal_', 'uniform_', 'bernoulli_')


@dataclass
class Passes:
    """passes: tensors that were read or written; megabytes: of them, in units of 10^6 bytes. Those of CACHED_BYTES at most are
    counted apart: ``cached`` and ``cached_megabytes``."""

    passes: int = 0
    megabytes: float = 0.0
    cached: int = 0
    cached_megabytes: float = 0.0

    def add(self, tensor: Tensor) -> None:
        """A pass over a tensor, of which an expanded axis is one entry."""
        size = tensor.element_size()
        for length, stride in zip(tensor.shape, tensor.stride()):
            size *= length if stride else min(length, 1)
        if size > CACHED_BYTES:
            self.passes += 1
            self.megabytes += size / 1e6
        elif size:
            self.cached += 1
            self.cached_megabytes += size / 1e6


def count_passes(step: Callable[[], object]) -> Passes:
    """Those of a step that PyTorch runs as it comes, backward pass included. What an operation does inside, such as the packing
    of a matrix product, is not seen; an operation that gives a view makes no pass."""
    with _Counter() as counter:
        step()
    return counter.found


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found = Passes()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.ops.prim.device.default:
            with self:  # operations that consist of others, as they come without autograd
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        for tensor in _passes_of(func, args, kwargs, out):
            self.found.add(tensor)
        return out


def _passes_of(func: Any, args: Any, kwargs: Any, out: Any) -> Iterator[Tensor]:
    """A tensor for each time that it is read or written."""
    schema = func._schema
    name = schema.name.rpartition('::')[2]
    returns = [returned.alias_info for returned in schema.returns]
    if (
        'empty' in name
        or name == '_unsafe_view'
        or returns
        and all(alias is not None and not alias.is_write for alias in returns)
    ):
        return
    for i, argument in enumerate(schema.arguments):
        given = args[i] if i < len(args) else kwargs.get(argument.name)
        writes = argument.alias_info is not None and argument.alias_info.is_write
        reads = not (writes and (argument.is_out or name in _ONLY_WRITE))
        for tensor in tree_leaves(given):
            if isinstance(tensor, Tensor):
                yield from [tensor] * (writes + reads)
    for alias, returned in zip(returns, out if isinstance(out, (tuple, list)) and len(returns) > 1 else [out]):
        if alias is None:
            yield from (tensor for tensor in tree_leaves(returned) if isinstance(tensor, Tensor))
