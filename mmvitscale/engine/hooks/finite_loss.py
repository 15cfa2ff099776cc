"""The hook that lets no infinity and no NaN into the weights."""

import random
import time
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmvitscale.analysis.nonfinite import Trace, image_paths, pack, trace_losses, without_ties
from mmvitscale.engine.optim.wrappers import wrappers_of
from mmvitscale.errors import InputError, some_of
from mmvitscale.models.deepvit.re_attention_norm import VariancePowerLaw
from mmvitscale.registry import HOOKS
from mmvitscale.utils.atomic_write import atomic_write

# Seconds that the processes that have nothing to say leave to the others.
_FIRST_WORD = 5
# Numbers of a buffer up to which it is set back.
_STATISTICS = 2**16


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stops a training whose loss is NaN or Inf before the weights are changed, or leaves such batches out.

    What is said names the iteration, the images, the terms of the loss and the layer where the first value that is not
    finite came out, for which the forward pass is repeated with what it has drawn. ``<work dir>/non_finite`` keeps the batch
    and the weights for ``tools/analysis/replay.py``. Running statistics (of BatchNorm, of Re-attention, whatever a module
    holds in small buffers) are set back to what they were before the batch. Gradients with NaN or Inf, which a finite loss can
    have, stop the training where ``clip_grad`` looks at them; with float16 they are the loss scaler's business.

    Several processes agree: they stop or leave out together.

    Our runners have it by default (``default_hooks=dict(finite_loss=None)`` leaves it out).

    Args:
        on_non_finite: 'stop' or 'skip'. None: 'stop', but 'skip' with float16's loss scaler, which leaves out steps anyway.
        patience: so many batches in a row are left out at most.
    """

    priority = 'LOWEST'  # what others draw before a step comes before what the step draws

    def __init__(self, on_non_finite: str | None = None, patience: int = 20):
        if on_non_finite not in (None, 'stop', 'skip'):
            raise InputError(f"on_non_finite={on_non_finite!r} found in finite_loss, but it is 'stop' or 'skip'")
        self.on_non_finite, self.patience = on_non_finite, patience
        self._in_a_row = 0
        self._batch: Any = None
        self._random: Any = None
        self._laws: list[Any] = []
        self._buffers: list[Tensor] = []
        self._statistics: list[tuple[Tensor, Tensor]] = []
        self._trained_tokens: list[int] = []

    def before_train(self, runner: Runner) -> None:
        """Stands before the updates."""
        wrapper = runner.optim_wrapper
        self._laws = [module for module in runner.model.modules() if isinstance(module, VariancePowerLaw)]
        # Tables and images that do not change are larger.
        self._buffers = [buffer for buffer in runner.model.buffers() if buffer.numel() <= _STATISTICS]
        if self.on_non_finite is None:
            scaled = hasattr(wrapper, 'loss_scaler') and getattr(wrapper, 'cast_dtype', None) in (None, torch.float16)
            self.on_non_finite = 'skip' if scaled and not hasattr(runner, 'strategy') else 'stop'
        if self.on_non_finite == 'skip' and hasattr(runner, 'strategy'):
            raise InputError("on_non_finite='skip' found with a strategy, whose processes cannot leave out a step; use 'stop'")
        for own in wrappers_of(wrapper).values():
            self._guard(runner, own)

    def _guard(self, runner: Runner, wrapper: Any) -> None:
        """Stand before the updates of an optimizer."""
        if not hasattr(wrapper, 'update_params') or 'update_params' in vars(wrapper):
            return
        wrapper.update_params = self._guarded(runner, wrapper, wrapper.update_params)
        if getattr(wrapper, 'clip_grad_kwargs', None) and not hasattr(wrapper, 'loss_scaler'):
            try:
                signature(wrapper.clip_func).bind([], **wrapper.clip_grad_kwargs)
            except TypeError as error:
                raise InputError(
                    f'clip_grad={dict(wrapper.clip_grad_kwargs)} found in optim_wrapper ({error}), but it is '
                    "max_norm=... or, with type='value', clip_value=..."
                ) from error
            wrapper.clip_func = self._watched(runner, wrapper.clip_func)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Keeps what would be needed to repeat the step."""
        self._batch = without_ties(data_batch)
        self._random = _random_states()
        self._statistics = [(buffer, buffer.clone()) for buffer in self._buffers]
        self._trained_tokens = [law.trained_tokens for law in self._laws]

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Lets go of it."""
        self._batch, self._statistics = None, []

    def _guarded(self, runner: Runner, wrapper: Any, update_params: Callable) -> Callable:

        def guarded(loss, *args, **kwargs):
            finite = bool(torch.isfinite(loss.detach()).all())
            if _everywhere(finite, loss.device):
                self._in_a_row = 0
                return update_params(loss, *args, **kwargs)
            self._set_back()
            if self.on_non_finite == 'stop' or self._in_a_row >= self.patience:
                self._stop(runner, 'the loss', float(loss.detach().float().mean()), finite)
            self._in_a_row += 1
            where = f' ({some_of(image_paths(self._batch))})' if not bool(finite) else ', in another process'
            runner.logger.warning(
                f'The loss of iteration {runner.iter + 1} is NaN or Inf{where}: the batch is left out, the '
                f'{self._in_a_row}. in a row.'
            )
            _count_as_done(wrapper, runner.model)
            return None

        # In a compiled step it stands between graphs, as the backward pass does.
        return torch.compiler.disable(guarded, recursive=False)

    def _watched(self, runner: Runner, clip_func: Callable) -> Callable:

        def watched(parameters, *args, **kwargs):
            norm = clip_func(parameters, *args, **kwargs)
            if norm is not None and not bool(torch.isfinite(norm)):  # the same in all processes
                self._set_back()
                self._stop(runner, 'the norm of the gradients', float(norm), False)
            return norm

        return watched

    def _set_back(self) -> None:
        for buffer, before in self._statistics:
            buffer.copy_(before)
        for law, tokens in zip(self._laws, self._trained_tokens):
            law.trained_tokens = tokens

    def _stop(self, runner: Runner, what: str, value: float, finite: bool) -> None:
        """Repeat the forward pass, keep what is needed for that and raise InputError. All processes come here."""
        trace = self._trace(runner)
        path = None if finite else self._keep(runner, what, trace)
        if get_world_size() > 1:
            dist.barrier()  # the end of one process ends the others, and they are writing
        if finite:
            time.sleep(_FIRST_WORD)
            raise InputError(f'{what} of another process is NaN or Inf')
        terms = f': {some_of(trace.terms)}' if trace and trace.terms else ''
        images = image_paths(self._batch)
        where = f', images {some_of(images)}' if images else ''
        if trace is None:
            first = 'the forward pass could not be repeated'
        elif trace.first:
            first = f'the first NaN or Inf came out of {trace.first}'
        else:
            first = 'every value of the forward pass is finite'
        kept = f'batch and weights are in {path} (see tools/analysis/replay.py)' if path else 'nothing could be kept'
        raise InputError(
            f'{what} is {value} at iteration {runner.iter + 1} (epoch {runner.epoch + 1}{terms}{where}); {first}; {kept}; '
            'lower the learning rate, clip gradients, leave out float16, or leave such batches out: --cfg-options '
            'default_hooks.finite_loss.on_non_finite=skip'
        )

    def _trace(self, runner: Runner) -> Trace | None:
        model = getattr(runner.model, 'module', runner.model)
        after = _random_states()
        _set_random_states(self._random)
        try:
            with runner.optim_wrapper.optim_context(runner.model):
                return trace_losses(model, self._batch)
        except Exception:  # of a model whose forward pass is not MMEngine's, or whose weights are elsewhere at this moment
            return None
        finally:
            _set_random_states(after)
            self._set_back()

    def _keep(self, runner: Runner, what: str, trace: Trace | None) -> Path | None:
        model = getattr(runner.model, 'module', runner.model)
        suffix = f'_rank{get_rank()}' if get_world_size() > 1 else ''
        path = Path(runner.work_dir, 'non_finite', f'iter_{runner.iter + 1}{suffix}.pth')
        content = dict(
            meta=dict(
                iter=runner.iter,
                epoch=runner.epoch,
                seed=runner.seed,
                rank=get_rank(),
                what=what,
                first=trace.first if trace else None,
                images=image_paths(self._batch),
                cfg=runner.cfg.pretty_text,
            ),
            state_dict={} if hasattr(runner, 'strategy') else model.state_dict(),
            batch=pack(self._batch),
            random=dict(torch=self._random[2], cuda=self._random[3]),
        )
        try:
            with atomic_write(path) as part:
                torch.save(content, part)
        except InputError as error:
            runner.logger.warning(str(error))
            return None
        return path


def _everywhere(finite: bool, device: torch.device) -> bool:
    """Whether it holds in all processes."""
    if get_world_size() == 1:
        return finite
    flag = torch.tensor(float(finite), device=device)
    dist.all_reduce(flag, dist.ReduceOp.MIN)
    return bool(flag.item())


def _count_as_done(wrapper: Any, model: nn.Module) -> None:
    """A batch that is left out counts among those that are accumulated, so that updates keep their places."""
    wrapper._inner_count += 1
    if not wrapper.should_update():
        return
    if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
        _average_gradients(model)  # which it leaves to the last of the batches, and that has no backward pass here
    if any(p.grad is not None for group in wrapper.optimizer.param_groups for p in group['params']):
        wrapper.step()
        wrapper.zero_grad()


@torch.no_grad()
def _average_gradients(model: nn.Module) -> None:
    """Over the processes; one that has no gradient of a parameter counts as zero where another has one."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        return
    there = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8, device=parameters[0].device)
    dist.all_reduce(there, dist.ReduceOp.MAX)
    for parameter, some in zip(parameters, there.tolist()):
        if some:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= get_world_size()


def _random_states() -> tuple[Any, ...]:
    """Of Python, NumPy, PyTorch and, where it is used, the GPU."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def _set_random_states(states: tuple[Any, ...]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    if states[3] is not None:
        torch.cuda.set_rng_state(states[3])
