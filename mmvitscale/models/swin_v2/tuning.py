"""The kernel ``tuned``: whichever form of window attention is the fastest on the user's own device, measured where it is first
needed, compared with the eager form, and remembered."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from statistics import median
from threading import RLock
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

import mmvitscale
from mmvitscale.errors import InputError
from mmvitscale.models.layers.autocast import no_autocast
from mmvitscale.models.layers.transforms import may_cache, takes_no_functions
from mmvitscale.models.swin_v2 import kernels
from mmvitscale.models.swin_v2.attention import FLEX_CHANNELS, KERNELS, Kernel, eager
from mmvitscale.models.swin_v2.kernel_choices import Choice, choices_file, locked, nearest, read_choices, write_choices
from mmvitscale.models.swin_v2.position_bias import WindowBias, expand, largest, sub_table
from mmvitscale.models.swin_v2.windows import Window, WindowGroup
from mmvitscale.utils import cpu
from mmvitscale.utils.memory import available_memory

_DEVICES = ('cpu', 'cuda')
# Sizes of map that are measured under the same conditions (``_conditions``); a training at many sizes must end one day. The
# shifted windows of a map, which have other shapes, count for themselves.
_MOST_SIZES = 16
# Rounds in which every kernel is timed, and the seconds after which the fewest are enough.
_ROUNDS, _FEWEST_ROUNDS, _SECONDS = 7, 3, 1.0
# A kernel that takes so many times the fastest one's time is not timed again.
_SLOW = 1.5
# Faster than the one that ``auto`` takes by less is nothing on a machine whose times drift; and eager, say, takes more memory.
_GAIN = 0.95
# Attention weights of the windows that results are compared on, if one window of each shape has no more.
_COMPARED = 2**22
# Norms of differences from float64, relative: of outputs and gradients of tokens, and of gradients that are summed over all
# tokens, most of which cancels. Eager's own difference, if that is larger, counts four times: its logits are rounded, too.
_TOLERANCES = {
    torch.float64: (1e-8, 1e-6),
    torch.float32: (1e-3, 1e-2),
    torch.float16: (0.05, 0.3),
    torch.bfloat16: (0.1, 0.5),
}
_EAGERS_SHARE = 4

# What is done to tensors that are saved for a backward pass, (pack, unpack), None for nothing.
_top_hooks = getattr(torch._C._autograd, '_top_saved_tensors_default_hooks', lambda _: (None, None))
_dispatch_modes = getattr(torch._C, '_len_torch_dispatch_stack', int)

# By all that a choice depends on, exact: what was once answered stays, so that a block that is recomputed in the backward pass
# (activation checkpointing) has the kernel of its forward pass.
_chosen: dict[tuple[Any, ...], str] = {}
_measured: dict[str, list[Choice]] = {}  # by this process
_lock = RLock()  # for threads


def tuned(qkv: Tensor, scale: Tensor | None, bias: WindowBias, groups: Sequence[WindowGroup]) -> Tensor:
    """A Kernel: the fastest of eager, fused, sequential and, on CUDA, flex, in training and at inference for themselves.

    The first call with windows of a size times all of them, forward and backward, on copies, in the precision of the call.
    One that fails, runs out of memory or differs from the eager form in outputs or gradients is left out; the one that
    ``auto`` takes stays unless another one is faster by a twentieth. The log says so, once for each size. Sixteen sizes are
    measured for a device, a precision and a stage's windows and heads, shifted windows for themselves; further ones take the
    choice of the nearest.

    Choices are kept in ``choices_file()`` and hold until PyTorch, this package or the device changes, or the file is removed:
    a training that is resumed on the same machine computes with the same kernels. Each process chooses alone, without any
    communication, which could wait for ever where processes have images of different sizes; those of one machine measure one
    after the other, and take what the first one found.

    As ``auto``, without measuring, in compiled, traced and exported models, under ``torch.func`` and dispatch modes (fake
    tensors, counters of operations), while a CUDA graph is captured, and on other devices. Second derivatives are as of the
    kernel that is chosen: set 'eager' for them.
    """
    if not _may_tune(qkv):
        return kernels.auto(qkv, scale, bias, groups)
    call = _Call.of(qkv, scale, bias, groups)
    name = _chosen.get(call.key)
    if name is None:
        with _lock:
            name = _chosen.get(call.key) or _choose(call, qkv, scale, bias)
    return KERNELS[name](qkv, scale, bias, groups)


KERNELS.update(tuned=tuned)


def _may_tune(qkv: Tensor) -> bool:
    return (
        may_cache()  # first, for a compiler reads no further
        and not takes_no_functions()
        and not _dispatch_modes()
        and type(qkv) is Tensor
        and qkv.device.type in _DEVICES
        and qkv.dtype in _TOLERANCES
        and qkv.numel() > 0
        and not (qkv.is_cuda and torch.cuda.is_current_stream_capturing())
    )


@dataclass(frozen=True)
class _Call:
    """What a choice depends on. needs_grad: qkv, the scale, the bias."""

    key: tuple[Any, ...]
    device: torch.device
    dtype: torch.dtype
    heads: int
    dim: int
    groups: tuple[WindowGroup, ...]
    needs_grad: tuple[bool, bool, bool]
    checkpointed: bool

    @staticmethod
    def of(qkv: Tensor, scale: Tensor | None, bias: WindowBias, groups: Sequence[WindowGroup]) -> '_Call':
        grad = torch.is_grad_enabled()
        needs_grad = (
            grad and qkv.requires_grad,
            grad and scale is not None and scale.requires_grad,
            grad and any(parameter.requires_grad for parameter in bias.module.parameters()),
        )
        pack = (_top_hooks(True) or (None,))[0]
        own = (
            qkv.device,
            qkv.dtype,
            *qkv.shape[2:],
            tuple(groups),
            needs_grad,
            getattr(pack, '__module__', '') == 'torch.utils.checkpoint',
        )
        surroundings = (grad, scale is None, torch.is_autocast_enabled(qkv.device.type), torch.get_num_threads())
        return _Call((*own, *surroundings), *own)

    @property
    def trains(self) -> bool:
        return any(self.needs_grad)

    @property
    def tokens(self) -> int:
        return sum(group.tokens for group in self.groups)

    @property
    def window(self) -> Window:
        return largest([group.window for group in self.groups])

    def describe(self) -> str:
        """For the log."""
        dtype = str(self.dtype).removeprefix('torch.')
        mode = f'training{", checkpointed" if self.checkpointed else ""}' if self.trains else 'inference'
        return (
            f'{self.heads} heads of {self.dim} channels, {self.tokens} tokens in windows of '
            f'{self.window[0]} x {self.window[1]}{" and smaller" if len(self.groups) > 1 else ""}, {dtype}, {mode}'
        )

    def conditions(self) -> str:
        """All that a choice depends on beside the size of the map."""
        grad, dot_product, autocast, threads = self.key[-4:]
        on_cpu = self.device.type == 'cpu'
        gradients = [name for name, needed in zip(('qkv', 'scale', 'bias'), self.needs_grad) if needed]
        parts = [
            f'{cpu.name()}, {threads} threads' if on_cpu else torch.cuda.get_device_name(self.device),
            f'PyTorch {torch.__version__}, mmvitscale {mmvitscale.__version__}',
            f'{self.dtype}{", autocast" if autocast else ""}',
            f'gradients of {", ".join(gradients)}' if gradients else 'no gradients, but of others' if grad else 'inference',
            *(['checkpointed'] if self.checkpointed else []),
            f'windows of {self.window[0]} x {self.window[1]}, {self.heads} heads of {self.dim} channels',
            'dot product' if dot_product else 'cosine',
        ]
        return '; '.join(parts)

    def candidates(self) -> list[str]:
        """Without a gradient ``sequential`` is ``fused``."""
        names = ['eager', 'fused', *(['sequential'] if self.key[-4] else [])]
        return [*names, *(['flex'] if self.device.type in kernels.FLEX_DEVICES and self.dim >= FLEX_CHANNELS else [])]

    def usual(self) -> str:
        """What ``auto`` takes."""
        return 'sequential' if self.device.type == 'cpu' and self.key[-4] else 'fused'


def _choose(call: _Call, qkv: Tensor, scale: Tensor | None, bias: WindowBias) -> str:
    """The name of a kernel: known of this size, or of a near one, or measured now."""
    conditions, path = call.conditions(), choices_file()
    with locked(path):
        known = read_choices(path)
        choices = known.get(conditions, [])
        choices = choices + [own for own in _measured.get(conditions, []) if not _of_size(choices, own.tokens, own.shapes)]
        choices = [choice for choice in choices if choice.kernel in (*call.candidates(), 'auto')]
        found = _of_size(choices, call.tokens, len(call.groups))
        if found:
            _log(f'attention of {call.describe()}: {found.kernel}, as it was measured before ({path})')
        elif len(choices) >= _MOST_SIZES:
            found = nearest(choices, call.tokens, len(call.groups))
        else:
            found, line = _measure(call, qkv, scale, bias)
            if found is None:  # NaN or Inf, which nothing can be compared with
                return 'auto'
            _log(line)
            _measured.setdefault(conditions, []).append(found)
            if path is not None and found.milliseconds:
                try:
                    write_choices(path, {**known, conditions: [*choices, found]})
                except InputError as error:
                    _log(f'the choice of attention holds for this process alone: {error}')
            if len(choices) + 1 == _MOST_SIZES:
                _log(f'{_MOST_SIZES} sizes were measured: for further ones attention is as for the nearest of them')
    _chosen[call.key] = found.kernel
    return found.kernel


def _of_size(choices: Sequence[Choice], tokens: int, shapes: int) -> Choice | None:
    return next((choice for choice in choices if (choice.tokens, choice.shapes) == (tokens, shapes)), None)


def _log(line: str) -> None:
    print_log(line, 'current')


def _measure(call: _Call, qkv: Tensor, scale: Tensor | None, bias: WindowBias) -> tuple[Choice | None, str]:
    """The fastest kernel that agrees with the eager form, and a line about all of them; none for values with NaN or Inf."""
    left_out: dict[str, str] = {}
    times: dict[str, list[float]] = {}
    with _own_saved_tensors(), _caught(left_out, 'all of them'):
        whole = _Inputs.of(call, qkv, scale, bias)
        agreeing = _agreeing(call, whole.piece(), left_out)
        if agreeing is None:
            return None, ''
        times = _times(call, whole, agreeing, left_out)
    seconds = {name: median(own) for name, own in times.items()}
    kernel = min(seconds, key=seconds.__getitem__, default='auto')
    usual = call.usual()
    if usual in seconds and seconds[kernel] > _GAIN * seconds[usual]:
        kernel = usual
    milliseconds = {name: 1e3 * value for name, value in sorted(seconds.items(), key=lambda item: item[1])}
    _return_memory(call.device)
    figures = ', '.join(f'{name} {value:.3g} ms' for name, value in milliseconds.items())
    refusals = ''.join(f'; {name} left out: {why}' for name, why in left_out.items())
    line = f'attention of {call.describe()}: {figures or "nothing could be measured"}{refusals}; {kernel} from now on'
    return Choice(call.tokens, len(call.groups), kernel, milliseconds), line


def _own_saved_tensors() -> AbstractContextManager[Any]:
    """Within it what is computed for its own sake is no part of a block that is checkpointed, which counts its tensors."""
    return saved_tensors_hooks(_same, _same) if _top_hooks(True) is not None else nullcontext()


def _same(value: Any) -> Any:
    return value


class _Table(nn.Module):
    """A position bias that was computed already."""

    def __init__(self, table: Tensor):
        super().__init__()
        self.values = table

    def forward(self, window: Window, pretrained_window: Window) -> Tensor:
        return sub_table(self.values, window)


@dataclass(frozen=True)
class _Inputs:
    """Arguments of a kernel, detached, the bias as its table, and what a gradient is computed for. None is overwritten."""

    qkv: Tensor
    scale: Tensor | None
    table: Tensor
    grad: Tensor | None  # of the output
    groups: tuple[WindowGroup, ...]
    needs_grad: tuple[bool, bool, bool]
    cached_bias: bool  # as a BiasCache has it

    @staticmethod
    def of(call: _Call, qkv: Tensor, scale: Tensor | None, bias: WindowBias) -> '_Inputs':
        """Of a call. The gradient is random; nobody else's random numbers are drawn."""
        with torch.no_grad():
            table = bias.table().detach()
        grad = None
        if call.trains:
            generator = torch.Generator(qkv.device).manual_seed(0)
            shape = (len(qkv), *qkv.shape[2:])
            grad = torch.randn(shape, generator=generator, device=qkv.device, dtype=torch.float32)
        cached_bias = qkv.device.type == 'cpu' and not torch.is_grad_enabled()
        scale = None if scale is None else scale.detach()
        return _Inputs(qkv.detach(), scale, table, grad, call.groups, call.needs_grad, cached_bias)

    def piece(self) -> '_Inputs':
        """Some windows of each shape."""
        heads, rows, groups, start = self.qkv.shape[2], [], [], 0
        for group in self.groups:
            count = max(min(group.count, _COMPARED // (len(self.groups) * heads * group.slots**2)), 1)
            groups.append(WindowGroup(group.window, count))
            rows.append(slice(start, start + groups[-1].tokens))
            start += group.tokens
        qkv = torch.cat([self.qkv[part] for part in rows])
        grad = None if self.grad is None else torch.cat([self.grad[part] for part in rows])
        return replace(self, qkv=qkv, grad=grad, groups=tuple(groups))

    def double(self) -> '_Inputs':
        scale, grad = (None if x is None else x.double() for x in (self.scale, self.grad))
        return replace(self, qkv=self.qkv.double(), scale=scale, table=self.table.double(), grad=grad)

    def run(self, kernel: Kernel, clock: Callable[[], float]) -> tuple[list[Tensor | None], float, float]:
        """The output, and the gradients of those that need one; the seconds of the forward and of the backward pass."""
        given = (self.qkv.clone(), None if self.scale is None else self.scale.clone(), self.table.clone())
        leaves = [x.requires_grad_() for x, needed in zip(given, self.needs_grad) if x is not None and needed]
        bias = self._bias(given[2])
        qkv = given[0].clone()  # a leaf must not be overwritten
        start = clock()
        out = kernel(qkv, given[1], bias, self.groups)
        middle = clock()
        if self.grad is None:
            return [out], middle - start, 0.0
        grad = self.grad.to(out.dtype)
        again = clock()
        with no_autocast(out.device):  # as in training, whose backward pass is outside
            grads = torch.autograd.grad(out, leaves, grad, allow_unused=True)
        return [out.detach(), *grads], middle - start, clock() - again

    def _bias(self, table: Tensor) -> WindowBias:
        windows = [group.window for group in self.groups]

        def laid_out(*_: Any) -> list[Tensor]:
            return [expand(sub_table(table, window), window) for window in windows]

        if self.cached_bias:
            expanded = laid_out()
            return WindowBias(_Table(table), windows, largest(windows), lambda *_: expanded)
        return WindowBias(_Table(table), windows, largest(windows), laid_out)


def _agreeing(call: _Call, piece: _Inputs, left_out: dict[str, str]) -> list[str] | None:
    """The kernels that give what the eager form gives, and, in ``left_out``, why others are none of them; None if it gives
    NaN or Inf."""
    with no_autocast(call.device):
        expected = [_precise(x) for x in piece.double().run(eager, time.perf_counter)[0]]
    if not all(bool(x.isfinite().all()) for x in expected):
        return None
    summed = [False, *(i > 0 for i, needed in enumerate(call.needs_grad) if needed)]  # the output, and gradients
    bounds = [_TOLERANCES[call.dtype][of_all] * x.norm() for of_all, x in zip(summed, expected, strict=True)]
    agreeing = []
    for name in call.candidates():
        with _caught(left_out, name):
            found = piece.run(KERNELS[name], time.perf_counter)[0]
            errors = [(_precise(x) - right).norm() for x, right in zip(found, expected, strict=True)]
            if name == 'eager':  # the first of them
                bounds = [torch.maximum(bound, _EAGERS_SHARE * error) for bound, error in zip(bounds, errors)]
            wrong = [i for i, (error, bound) in enumerate(zip(errors, bounds)) if not bool(error <= bound)]
            if wrong:
                off = float(errors[wrong[0]] / expected[wrong[0]].norm().clamp_min(1e-30))
                what = 'gradients' if wrong[0] else 'outputs'
                left_out[name] = f'its {what} are not those of the eager form (off by {off:.2g})'
            else:
                agreeing.append(name)
    return agreeing


def _precise(x: Tensor | None) -> Tensor:
    return torch.tensor(float('nan')) if x is None else x.double()


def _times(call: _Call, whole: _Inputs, names: Sequence[str], left_out: dict[str, str]) -> dict[str, list[float]]:
    """Seconds of each kernel, one by one in every round, so that what slows the machine down slows all of them down."""
    clock = _clock_of(call.device)

    def seconds_of(name: str) -> float:
        _, forward, backward = whole.run(KERNELS[name], clock)
        return (2 if call.checkpointed else 1) * forward + backward

    times: dict[str, list[float]] = {}
    for name in names:
        if name in _heavy(call) and not _fits(call):
            left_out[name] = 'its attention weights would fill the memory'
            continue
        with _caught(left_out, name):
            seconds_of(name)  # warms up, and compiles
            times[name] = []
    begin, running = clock(), list(times)
    for number in range(_ROUNDS):
        turn = number % max(len(running), 1)
        for name in running[turn:] + running[:turn]:
            with _caught(left_out, name):
                times[name].append(seconds_of(name))
        for name in [name for name in times if name in left_out]:
            del times[name]
        best = min((min(own) for own in times.values()), default=0.0)
        running = [name for name in running if name in times and min(times[name]) <= _SLOW * best]
        if number + 1 >= _FEWEST_ROUNDS and clock() - begin > _SECONDS or len(running) < 2:
            break
    return times


def _clock_of(device: torch.device) -> Callable[[], float]:
    if device.type == 'cpu':
        return time.perf_counter

    def clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock


def _heavy(call: _Call) -> tuple[str, ...]:
    """Kernels that keep all attention weights: fused does on a CPU, where the bias needs a gradient."""
    return ('eager', 'fused') if call.device.type == 'cpu' and call.needs_grad[2] else ('eager',)


def _fits(call: _Call) -> bool:
    """Whether attention weights, as eager makes them, take no more than half of the memory that is free."""
    weights = sum(group.count * group.slots**2 for group in call.groups) * call.heads
    needed = weights * (20 if call.trains else 12) * (2 if call.dtype == torch.float64 else 1)
    if call.device.type == 'cpu':
        free = available_memory()
    else:
        unused = torch.cuda.memory_reserved(call.device) - torch.cuda.memory_allocated(call.device)
        free = torch.cuda.mem_get_info(call.device)[0] + unused
    return free is None or needed <= free / 2


@contextmanager
def _caught(left_out: dict[str, str], name: str) -> Iterator[None]:
    """What a kernel raises is a reason to leave it out."""
    try:
        yield
        return
    except MemoryError:
        left_out[name] = 'out of memory'
    except Exception as error:
        out_of_memory = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        text = (str(error).splitlines() or [''])[0][:100]
        left_out[name] = 'out of memory' if out_of_memory else f'{type(error).__name__}: {text}'
    # Here, where the error no longer has the tensors.
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _return_memory(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.empty_cache()
