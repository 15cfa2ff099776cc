"""The hook that grows windows and crops during training."""

from typing import Iterator, List, Optional, Sequence

from mmengine.hooks import Hook

from ..checkpoints.lineage import swin_backbones
from ..errors import InputError
from ..registry import HOOKS

_KEYS = {'begin', 'window_size', 'crop_size', 'scale'}


@HOOKS.register_module()
class ProgressiveWindowHook(Hook):
    """Changes the windows of the SwinV2 backbone, and the size of training crops, at given iterations.

    The learned function is preserved across each change (``set_window_size``). A resumed training goes on in the phase
    of its iteration.

    Args:
        schedule: phases in order, each a dict with ``begin`` (iteration, the first is 0) and any of ``window_size`` (as
            the backbone takes it), ``crop_size`` (height, width) for the training pipeline's RandomCrop and the
            preprocessor's padding, and ``scale`` (as the pipeline's RandomResize or Resize takes it).
    """

    # Before LogCPBTransferHook reports, and before ParamScheduler or logger look at the iteration.
    priority = 'ABOVE_NORMAL'

    def __init__(self, schedule: Sequence[dict]):
        begins = [phase.get('begin') for phase in schedule]
        if not begins or begins[0] != 0 or any(a >= b for a, b in zip(begins, begins[1:])):
            raise InputError(f'the phases of ProgressiveWindowHook begin at {begins}, but they begin at 0 and at '
                             'rising iterations')
        unknown = sorted(set().union(*schedule) - _KEYS)
        if unknown:
            raise InputError(f'a phase of ProgressiveWindowHook has {unknown}, but it may have {sorted(_KEYS)}')
        self.schedule = [dict(phase) for phase in schedule]
        self._phase: Optional[dict] = None

    def before_train(self, runner) -> None:
        # Whatever was trained before a resume, the loop itself skips.
        self._enter(runner, self._phase_at(runner.iter), skip=0)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        # The batch at hand was cropped for the phase before; any window serves any crop.
        phase = self._phase_at(runner.iter)
        if phase is not self._phase:
            self._enter(runner, phase, skip=runner.iter + 1)

    def _phase_at(self, iteration: int) -> dict:
        return [phase for phase in self.schedule if phase['begin'] <= iteration][-1]

    def _enter(self, runner, phase: dict, skip: int) -> None:
        self._phase = phase
        backbones = swin_backbones(runner.model)
        if not backbones:
            raise InputError('ProgressiveWindowHook found no SwinV2 backbone in the model; remove it from custom_hooks')
        if 'window_size' in phase:
            for backbone in backbones:
                if backbone.position_bias == 'table':
                    raise InputError("ProgressiveWindowHook grows windows of a position bias that is a function of the "
                                     "offset, but the backbone's is a table; use position_bias log_cpb or linear_cpb")
                backbone.set_window_size(phase['window_size'])
        if self._resize_crops(runner, phase):
            _restart_loading(runner, skip)
        runner.logger.info(f'Iteration {runner.iter}: ' + ', '.join(
            f'{key} {phase[key]}' for key in ('window_size', 'crop_size', 'scale') if key in phase))

    def _resize_crops(self, runner, phase: dict) -> bool:
        """Set the phase's sizes in the training pipeline; True if there are any."""
        steps = list(_steps(runner.train_dataloader.dataset))
        for key, types in (('crop_size', ('RandomCrop', )), ('scale', ('RandomResize', 'Resize'))):
            if key not in phase:
                continue
            targets = [step for step in steps if type(step).__name__ in types]
            if not targets:
                raise InputError(f'ProgressiveWindowHook has a {key}, but the training pipeline has no '
                                 f'{" or ".join(types)}; remove it from the schedule')
            for step in targets:
                setattr(step, key, tuple(phase[key]))
        if 'crop_size' in phase:
            model = getattr(runner.model, 'module', runner.model)
            if getattr(model.data_preprocessor, 'size', None) is not None:
                model.data_preprocessor.size = tuple(phase['crop_size'])
        return 'crop_size' in phase or 'scale' in phase


def _steps(dataset) -> Iterator:
    """The transforms of a data set, through wrappers."""
    inner: List = list(getattr(dataset, 'datasets', [])) or [getattr(dataset, 'dataset', None)]
    for item in filter(None, inner):
        yield from _steps(item)
    yield from getattr(getattr(dataset, 'pipeline', None), 'transforms', [])


def _restart_loading(runner, skip: int) -> None:
    """Let the loading processes, which hold copies of the pipeline, start anew from the changed one, ``skip``
    iterations into the sampler's stream."""
    loader, loop = runner.train_dataloader, runner.train_loop
    loader._iterator = None  # the processes that persistent_workers keeps
    if not hasattr(loop, 'dataloader_iterator'):  # an epoch-based loop starts an iteration of its own each epoch
        return
    if hasattr(loader.sampler, '_indices_of_rank'):  # InfiniteSampler's stream ended with the iteration over it
        loader.sampler.indices = loader.sampler._indices_of_rank()
    loop.dataloader_iterator = type(loop.dataloader_iterator)(loader)
    if skip and hasattr(loop.dataloader_iterator, 'skip_iter'):
        loop.dataloader_iterator.skip_iter(skip)
