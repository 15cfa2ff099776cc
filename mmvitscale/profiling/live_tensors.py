"""What a step would hold in memory, found on the meta device, where nothing is computed or stored: every tensor that the
forward and backward passes make is counted while it lives. What libraries take for themselves inside an operation (oneDNN's
and cuDNN's workspaces) does not show."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from mmvitscale.models.deepvit import re_attention
from mmvitscale.models.swin_v2 import attention, kernels
from mmvitscale.models.swin_v2.attention import scaled_query_key


class LiveTensors(TorchDispatchMode):
    """Bytes of the tensors that are made within it, while they live: ``now`` and ``peak``. Views count once; the parameters
    and buffers of ``modules`` do not count."""

    def __init__(self, *modules: nn.Module):
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref] = {}
        self._kept = [t.untyped_storage() for m in modules for t in (*m.parameters(), *m.buffers())]
        for storage in self._kept:
            self._known[id(storage)] = weakref.ref(storage)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        outputs = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return outputs

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key in self._known and self._known[key]() is storage:
            return
        size = storage.nbytes()

        def gone(_):
            self.now -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


class _FusedAttention(Function):
    """In the place of a fused kernel: what it keeps and makes, but no maps. A bias that needs a gradient gets one of full
    size first, as PyTorch's memory-efficient kernel gives it."""

    @staticmethod
    def forward(ctx, q, k, v, mask):
        out = torch.empty_like(q)
        log_sums = q.new_empty(q.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(q, k, v, mask, out, log_sums)
        return out

    @staticmethod
    def backward(ctx, grad):
        q, k, v, mask, _, _ = ctx.saved_tensors
        grads = [torch.empty_like(x) for x in (q, k, v)]
        if mask is None or not ctx.needs_input_grad[3]:
            return *grads, None
        whole = mask.new_empty(*q.shape[:-1], k.shape[-2])
        return *grads, whole.sum_to_size(mask.shape)


class _FlexAttention(Function):
    """In the place of FlexAttention: nothing of the size of the maps, and of the bias the table alone."""

    @staticmethod
    def forward(ctx, q, k, v, table):
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, table, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx, grad):
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:4])


def _flex_attention(qkv, scale, table, groups):
    q, k, v = qkv.unbind(1)
    q, k = scaled_query_key(q, k, scale)
    return _FlexAttention.apply(q.to(v.dtype), k.to(v.dtype), v, table)


# What autocast computes in 16 bits, and in float32, of what our models and heads call.
_LOWER = {
    F.linear,
    F.conv2d,
    F.conv_transpose2d,
    torch.conv2d,
    torch.conv_transpose2d,
    torch.matmul,
    torch.bmm,
    torch.mm,
    torch.einsum,
    torch.addmm,
    torch.baddbmm,
    Tensor.matmul,
    Tensor.__matmul__,
    Tensor.__rmatmul__,
    Tensor.bmm,
    Tensor.mm,
}
_FLOAT32_ON_GPUS = {
    F.layer_norm,
    F.group_norm,
    F.softmax,
    torch.softmax,
    Tensor.softmax,
    F.log_softmax,
    torch.log_softmax,
    Tensor.log_softmax,
    F.cross_entropy,
    F.nll_loss,
    torch.exp,
    Tensor.exp,
    torch.log,
    Tensor.log,
    Tensor.pow,
    torch.pow,
    torch.rsqrt,
    Tensor.rsqrt,
    Tensor.sum,
    torch.sum,
    F.normalize,
    torch.norm,
}


class _Kernels(TorchFunctionMode):
    """Within it operations on the meta device take the memory that they would take on ``device``: with autocast to 16 bits
    if ``mixed``, whose copies of weights are kept until the forward pass ends if ``cached``, and with fused attention."""

    def __init__(self, device: str, mixed: bool, cached: bool):
        super().__init__()
        self.device, self.mixed, self.cached = device, mixed, cached
        self.weights: dict[int, Tensor] = {}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention:
            return self._attention(function, *args, **kwargs)
        if self.mixed and function in _LOWER:
            args, kwargs = tree_map_only(Tensor, self._lower, (args, kwargs))
        elif self.mixed and self.device == 'cuda' and function in _FLOAT32_ON_GPUS:
            args, kwargs = tree_map_only(Tensor, _widen, (args, kwargs))
        return function(*args, **kwargs)

    def _lower(self, tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.float32:
            return tensor
        if not (self.cached and tensor.is_leaf and tensor.requires_grad):
            return tensor.to(torch.bfloat16)
        if id(tensor) not in self.weights:
            self.weights[id(tensor)] = tensor.to(torch.bfloat16)
        return self.weights[id(tensor)]

    def _attention(self, function, q, k, v, attn_mask=None, dropout_p=0.0, **kwargs):
        if self.mixed:
            q, k, v = (self._lower(x) for x in (q, k, v))
        if self.device == 'cpu' and attn_mask is not None and attn_mask.requires_grad and torch.is_grad_enabled():
            return function(q, k, v, attn_mask=attn_mask, **kwargs)  # in single steps there
        mask = None if attn_mask is None else attn_mask.expand(*q.shape[:-1], k.shape[-2])
        return _FusedAttention.apply(q, k, v, mask)

    @contextmanager
    def autocast(self, *_, enabled: bool = True, **__) -> Iterator[None]:
        """In the place of ``torch.autocast``, which knows no meta device."""
        before, self.mixed = self.mixed, self.mixed and enabled
        try:
            yield
        finally:
            self.mixed = before


def _widen(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


@contextmanager
def as_on(device: str, mixed: bool, cached: bool = True) -> Iterator[_Kernels]:
    """Within it the meta device stands for ``device``, 'cuda' or 'cpu'."""
    stand_in = _Kernels(device, mixed, cached)
    chunks = [{**module._CHUNK, 'meta': module._CHUNK[device]} for module in (kernels, re_attention)]
    auto = attention.KERNELS['sequential' if device == 'cpu' else 'fused']
    with (
        mock.patch.object(kernels, '_CHUNK', chunks[0]),
        mock.patch.object(re_attention, '_CHUNK', chunks[1]),
        mock.patch.dict(re_attention._ROWS, meta=re_attention._ROWS.get(device, 1)),
        mock.patch.dict(attention.KERNELS, auto=auto),
        mock.patch.object(kernels, 'auto', auto),
        mock.patch.object(kernels, 'FLEX_DEVICES', ('meta',) if device == 'cuda' else ()),
        mock.patch.object(kernels, 'flex_attention', _flex_attention),
        mock.patch('torch.autocast', stand_in.autocast),
    ):
        yield stand_in


def step(
    forward: Callable[[], Tensor],
    *modules: nn.Module,
    device: str = 'cuda',
    mixed: bool = False,
    cached: bool = True,
    gradients: bool = True,
    watched: dict[str, nn.Module] | None = None,
) -> 'Step':
    """Take ``forward`` to a loss and back, on the meta device.

    Args:
        forward: gives the loss of modules on the meta device.
        modules: whose parameters are not counted.
        device: the kind of device that it stands for.
        mixed: under autocast.
        cached: autocast keeps its copies of weights until the forward pass ends, as it does by default.
        gradients: count the parameters' gradients while they live; else they are let go as soon as they are made, for
            they have a place elsewhere.
        watched: parts, by name, whose activations are reported.
    """
    kept: dict[str, int] = dict.fromkeys(watched or {}, 0)
    hooks = []
    with LiveTensors(*modules) as live:
        for name, part in (watched or {}).items():
            hooks += _watch(part, name, live, kept)
        if not gradients:
            for parameter in (p for module in modules for p in module.parameters() if p.requires_grad):
                hooks.append(parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, 'grad', None)))
        try:
            with as_on(device, mixed, cached) as kernels:
                with kernels:
                    loss = forward()
                kernels.weights.clear()
                with kernels:  # for what is computed again; ``loss.backward()`` would leave the mode
                    torch.autograd.Variable._execution_engine.run_backward(
                        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
                    )
        finally:
            for hook in hooks:
                hook.remove()
        del loss
    for module in modules:
        module.zero_grad(set_to_none=True)
    return Step(live.peak, kept)


def _watch(part: nn.Module, name: str, live: LiveTensors, kept: dict[str, int]) -> list:
    start = []

    def before(*_):
        start.append(live.now)

    def after(*_):
        kept[name] += live.now - start.pop()

    return [part.register_forward_pre_hook(before), part.register_forward_hook(after)]


class Step:
    """peak: bytes beyond the parameters. kept: for each part what its forward pass leaves for the backward one."""

    def __init__(self, peak: int, kept: dict[str, int]):
        self.peak, self.kept = peak, kept
