"""The hook that grows windows and crops during training."""

from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmvitscale.analysis.extrapolation import swin_backbones
from mmvitscale.engine.hooks.exact_resume import restart_loading
from mmvitscale.errors import InputError
from mmvitscale.registry import HOOKS

_KEYS = {'begin', 'window_size', 'crop_size', 'scale'}


@HOOKS.register_module()
class ProgressiveWindowHook(Hook):
    """Changes the windows of the SwinV2 backbone, and the size of training crops, at given iterations.

    The learned function is preserved across each change (``set_window_size``). What a phase does not name stays as the
    phases before left it, and a resumed training goes on with all that holds at its iteration. Each checkpoint holds the
    windows it was last trained with: our tools test with them.

    Args:
        schedule: phases in order, each a dict with ``begin`` (iteration, the first is 0) and any of ``window_size`` (as
            the backbone takes it), ``crop_size`` (height, width) for the training pipeline's RandomCrop and the
            preprocessor's padding, and ``scale`` (as the pipeline's RandomResize or Resize takes it).
    """

    # Before LogCPBTransferHook reports, and before ParamScheduler or logger look at the iteration.
    priority = 'HIGH'

    def __init__(self, schedule: Sequence[dict]):
        begins: list[Any] = [phase.get('begin') for phase in schedule]
        if not begins or begins[0] != 0 or any(a >= b for a, b in zip(begins, begins[1:])):
            raise InputError(
                f'the phases of ProgressiveWindowHook begin at {begins}, but they begin at 0 and at rising iterations'
            )
        unknown = sorted(set().union(*schedule) - _KEYS)
        if unknown:
            raise InputError(f'a phase of ProgressiveWindowHook has {unknown}, but it may have {sorted(_KEYS)}')
        self.schedule = [dict(phase) for phase in schedule]
        self._settings: dict | None = None

    def before_train(self, runner: Runner) -> None:
        """Sets the windows of the iteration that training starts with."""
        # Whatever was trained before a resume, the loop itself skips.
        self._apply(runner, self._settings_at(runner.iter), skip=0)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Moves on to the next entry of the schedule when its turn has come."""
        # The batch at hand was cropped for the phase before; any window serves any crop.
        settings = self._settings_at(runner.iter)
        if settings != self._settings:
            changed = {key: value for key, value in settings.items() if value != (self._settings or {}).get(key)}
            self._apply(runner, changed, skip=runner.iter + 1)

    def _settings_at(self, iteration: int) -> dict:
        """What holds at an iteration: every phase until then, the later over the earlier."""
        settings = {}
        for phase in self.schedule:
            if phase['begin'] <= iteration:
                settings.update(phase)
        settings.pop('begin')
        return settings

    def _apply(self, runner: Runner, changed: dict, skip: int) -> None:
        self._settings = {**(self._settings or {}), **changed}
        backbones = swin_backbones(runner.model)
        if not backbones:
            raise InputError('ProgressiveWindowHook found no SwinV2 backbone in the model; remove it from custom_hooks')
        if 'window_size' in changed:
            for backbone in backbones:
                backbone.set_window_size(changed['window_size'])
        if self._resize_crops(runner, changed):
            restart_loading(runner, skip)
        if changed:
            runner.logger.info(
                f'Iteration {runner.iter}: '
                + ', '.join(f'{key} {changed[key]}' for key in ('window_size', 'crop_size', 'scale') if key in changed)
            )

    def _resize_crops(self, runner: Runner, changed: dict) -> bool:
        """Set the sizes in the training pipeline; True if there are any."""
        steps = list(_steps(runner.train_dataloader.dataset))
        for key, types in (('crop_size', ('RandomCrop',)), ('scale', ('RandomResize', 'Resize'))):
            if key not in changed:
                continue
            targets = [step for step in steps if type(step).__name__ in types]
            if not targets:
                raise InputError(
                    f'ProgressiveWindowHook has a {key}, but the training pipeline has no '
                    f'{" or ".join(types)}; remove it from the schedule'
                )
            for step in targets:
                setattr(step, key, tuple(changed[key]))
        if 'crop_size' in changed:
            model = getattr(runner.model, 'module', runner.model)
            if getattr(model.data_preprocessor, 'size', None) is not None:
                model.data_preprocessor.size = tuple(changed['crop_size'])
        return 'crop_size' in changed or 'scale' in changed


def _steps(dataset) -> Iterator:
    """The transforms of a data set, through wrappers."""
    inner: list = list(getattr(dataset, 'datasets', [])) or [getattr(dataset, 'dataset', None)]
    for item in filter(None, inner):
        yield from _steps(item)
    yield from getattr(getattr(dataset, 'pipeline', None), 'transforms', [])
