"""The hook that watches attention and activations during training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.distributed.fsdp import FSDPModule

from mmvitscale.analysis.amplitude import recorded_amplitudes
from mmvitscale.analysis.recorder import AttentionMaps, recorded_attention
from mmvitscale.analysis.similarity import NeighbourSimilarity
from mmvitscale.checkpoints.loading import backbones_of, unwrapped
from mmvitscale.errors import InputError
from mmvitscale.registry import HOOKS


@contextmanager
def _parameters_outside_blocks(model: torch.nn.Module) -> Iterator[None]:
    """Within it those that FSDP shares out are whole; a pass of the whole model, or of a block, would see to that."""
    sharded = isinstance(model, FSDPModule)
    if sharded:
        model.unshard()
    try:
        yield
    finally:
        if sharded:
            model.reshard()


@HOOKS.register_module()
class AttentionMonitorHook(Hook):
    """Every ``interval`` iterations sends the first image of the batch through the backbone once more, in evaluation mode,
    and writes to the visualizer's backends (TensorBoard, scalars.json): ``attention/similarity``, the mean cosine of the
    attention maps of a block and the one before it (DeepViT, section 3.1), ``attention/collapsed_blocks``, those above
    ``threshold``, ``amplitude/largest`` and ``amplitude/last`` of the blocks' outputs (SwinV2, section 3.2), and each
    block's own, ``attention/layer_<i>`` and ``amplitude/layer_<i>``.

    Training is not touched: neither gradients, nor running statistics, nor random numbers.

    Args:
        interval: in iterations.
        threshold: two blocks are similar above it.
    """

    def __init__(self, interval: int = 500, threshold: float = 0.9):
        if not isinstance(interval, int) or interval < 1:
            raise InputError(f'AttentionMonitorHook got interval={interval!r}, but it is a number of iterations, 1 or more')
        self.interval, self.threshold = interval, threshold
        self._inputs: tuple | None = None
        self._hook = None

    def before_train(self, runner: Runner) -> None:
        """Raises InputError for a model without a backbone of ours."""
        if not backbones_of(unwrapped(runner.model)):
            raise InputError('AttentionMonitorHook found no backbone of mmvitscale in the model; remove it from custom_hooks')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Starts to record where this iteration is one of those."""
        backbone = next(iter(backbones_of(unwrapped(runner.model)).values()))
        # Where parameters are sharded, a pass of one process needs all of them.
        sharded = isinstance(unwrapped(runner.model), FSDPModule)
        if self.every_n_train_iters(runner, self.interval) and (is_main_process() or sharded):
            self._hook = backbone.register_forward_pre_hook(self._keep)

    def _keep(self, module, inputs) -> None:
        self._inputs = tuple(x[:1].detach() if isinstance(x, torch.Tensor) else x for x in inputs)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Logs what was recorded."""
        if self._hook is None:
            return
        self._hook.remove()
        inputs, self._inputs, self._hook = self._inputs, None, None
        if inputs is not None:
            model = unwrapped(runner.model)
            backbone = next(iter(backbones_of(model).values()))
            with _parameters_outside_blocks(model):
                found = self._measure(backbone, inputs)
            runner.visualizer.add_scalars(found, step=runner.iter + 1)

    def _measure(self, backbone: torch.nn.Module, inputs: tuple) -> dict[str, float]:
        similar: list[tuple[int, float]] = []
        neighbours = NeighbourSimilarity()

        def each(maps: AttentionMaps) -> None:
            value = neighbours.add(maps.groups)
            if value is not None:
                similar.append((maps.layer, value))

        training = backbone.training
        backbone.eval()
        try:
            with torch.no_grad(), recorded_attention(backbone, each=each), recorded_amplitudes(backbone) as amplitudes:
                backbone(*inputs)
        finally:
            backbone.train(training)
        sizes = [values[0] for values in amplitudes.values()]
        found = {'amplitude/largest': max(sizes), 'amplitude/last': sizes[-1]}
        if similar:
            found['attention/similarity'] = sum(value for _, value in similar) / len(similar)
            found['attention/collapsed_blocks'] = float(sum(value > self.threshold for _, value in similar))
        found.update({f'attention/layer_{layer:02d}': value for layer, value in similar})
        found.update({f'amplitude/layer_{layer:02d}': value for layer, value in enumerate(sizes)})
        return found
