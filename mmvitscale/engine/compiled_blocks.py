"""``compile=dict(target='auto')``: the blocks of the backbone are compiled for training steps where that can pay, and computed
without where compiling fails."""

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from mmvitscale.checkpoints.loading import backbones_of
from mmvitscale.config.image_sizes import training_image_size

# Blocks differ in their rate of stochastic depth, so that each has graphs of its own: minutes, before they are faster.
_FEWEST_ITERATIONS = 5000


def wants_compiled_blocks(cfg: Config, iterations: int | None) -> tuple[bool, str]:
    """Whether the blocks of a training with so many iterations to go (None if it is not known) are compiled by default, and the
    reason, for the log."""
    if not torch.cuda.is_available():
        return False, 'there is no CUDA GPU'
    if cfg.get('strategy'):
        return False, 'the training has a strategy'
    if 'recompile_limit' not in signature(torch.compile).parameters:
        return False, 'PyTorch before 2.12 compiles no more than 8 of them'
    size, cause = training_image_size(cfg)
    if size is None:
        return False, cause
    if iterations is not None and iterations < _FEWEST_ITERATIONS:
        return False, f'{iterations} iterations are too few'
    return True, f'training images have one size, {size[0]} x {size[1]}'


def why_not_compiling(device: str) -> str | None:
    """Compiles something tiny for a device, forward and backward: what fails, in a line, where Triton or a C compiler is
    missing, say."""
    try:
        x = torch.ones(64, device=device, requires_grad=True)
        torch.compile(_tiny)(x).backward()
    except Exception as error:
        return _line(error)
    return None


def _tiny(x: torch.Tensor) -> torch.Tensor:
    return (x.sin() * x).sum()


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = ' '.join(lines[: 2 if lines and lines[0].endswith('raised:') else 1])
    return f'{type(error).__name__}: {first[:200]}'


def compile_training_steps(model: nn.Module, warn: Callable[[str], Any], **options: Any) -> None:
    """Compile the blocks of its backbones, one at a time, for training steps alone: validation, whose images have many sizes,
    computes as it comes. Where one of them cannot be compiled, all go on without, and ``warn`` is called once.

    Args:
        model: whose names of parameters stay.
        warn: takes a line.
        options: of ``torch.compile``.
    """
    blocks = [block for backbone in backbones_of(model).values() for block in backbone.transformer_blocks()]
    switch = _Switch(blocks, warn)
    if 'recompile_limit' in signature(torch.compile).parameters:
        options.setdefault('recompile_limit', 4 * len(blocks) + 16)  # PyTorch gives up after 8 by default
    for block in blocks:
        block.compile(**{'dynamic': False, **options})
        block._compiled_call_impl = _InTraining(block, block._compiled_call_impl, switch)


class _Switch:
    """What lets go of all compiled blocks together."""

    def __init__(self, blocks: Sequence[nn.Module], warn: Callable[[str], Any]):
        self.blocks, self.warn = blocks, warn

    def turn_off(self, error: BaseException) -> None:
        for block in self.blocks:
            block._compiled_call_impl = None
        self.warn(f'The blocks of the backbone cannot be compiled and are computed without ({_line(error)}).')


class _InTraining:
    """What a block's call is: compiled in a training step, as it comes elsewhere and after a failure."""

    def __init__(self, block: nn.Module, compiled: Any, switch: _Switch):
        self.block, self.compiled, self.switch = block, compiled, switch

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from torch._dynamo.exc import TorchDynamoException

        if not (self.block.training and torch.is_grad_enabled()):
            return self.block._call_impl(*args, **kwargs)
        try:
            return self.compiled(*args, **kwargs)
        except TorchDynamoException as error:  # before anything was computed
            self.switch.turn_off(error)
        return self.block._call_impl(*args, **kwargs)
