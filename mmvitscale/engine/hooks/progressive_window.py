"""The hook that grows windows and crops during training."""

from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmvitscale.analysis.extrapolation import swin_backbones
from mmvitscale.engine.hooks.exact_resume import restart_loading
from mmvitscale.errors import InputError
from mmvitscale.registry import HOOKS

# Sizes of the data -> the transforms that have them.
_SIZES = {'crop_size': ('RandomCrop',), 'scale': ('RandomResize', 'Resize')}
_SIZED = {name for names in _SIZES.values() for name in names}
_KEYS = {'begin', 'window_size', *_SIZES}


@HOOKS.register_module()
class ProgressiveWindowHook(Hook):
    """Changes the windows of the SwinV2 backbone, and the size of training crops, at given iterations.

    The learned function is preserved across each change (``set_window_size``). What a phase does not name stays as the
    phases before left it, and a resumed training goes on with all that holds at its iteration. Each checkpoint holds the
    windows it was last trained with: our tools test with them. In a loop that counts epochs, whose data are loaded ahead by
    the epoch, crops change with the epoch that begins at or after the iteration.

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
        self._settings: dict[str, Any] = {}
        self._crops: dict[str, Any] = {}

    def before_train(self, runner: Runner) -> None:
        """Sets the windows of the iteration that training starts with, and its crops."""
        self._settings, self._crops = {}, {}
        if not swin_backbones(runner.model):
            raise InputError('ProgressiveWindowHook found no SwinV2 backbone in the model; remove it from custom_hooks')
        for phase in self.schedule:  # what the pipeline lacks is said at once
            self._targets(runner, phase)
        self._set_windows(runner)
        # Whatever was trained before a resume, the loop itself skips.
        if _counts_iterations(runner) and self._resize_crops(runner, runner.iter):
            restart_loading(runner, 0)

    def before_train_epoch(self, runner: Runner) -> None:
        """In a loop that counts epochs: the crops of the iteration that this one began with, after a resume within it, too."""
        if not _counts_iterations(runner) and self._resize_crops(runner, runner.epoch * len(runner.train_dataloader)):
            restart_loading(runner, 0)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Moves on to the next entry of the schedule when its turn has come."""
        self._set_windows(runner)
        if 'crop_size' in self._crops:
            model = getattr(runner.model, 'module', runner.model)
            if getattr(model.data_preprocessor, 'size', None) is not None:
                model.data_preprocessor.size = tuple(self._crops['crop_size'])

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Lets the next batch be loaded with its crops: whether a training is resumed before it or not, it is the same."""
        if _counts_iterations(runner) and self._resize_crops(runner, runner.iter + 1):
            restart_loading(runner, runner.iter + 1)

    def _settings_at(self, iteration: int) -> dict:
        """What holds at an iteration: every phase until then, the later over the earlier."""
        settings = {}
        for phase in self.schedule:
            if phase['begin'] <= iteration:
                settings.update(phase)
        settings.pop('begin')
        return settings

    def _set_windows(self, runner: Runner) -> None:
        settings = {key: value for key, value in self._settings_at(runner.iter).items() if key == 'window_size'}
        if settings != self._settings:
            self._settings = settings
            for backbone in swin_backbones(runner.model):
                backbone.set_window_size(settings['window_size'])
            runner.logger.info(f'Iteration {runner.iter}: window_size {settings["window_size"]}')

    def _resize_crops(self, runner: Runner, iteration: int) -> bool:
        """Set the sizes of an iteration in the training pipeline; whether they are others than before."""
        settings = {key: value for key, value in self._settings_at(iteration).items() if key in _SIZES}
        changed = {key: value for key, value in settings.items() if value != self._crops.get(key)}
        self._crops = settings
        for key, targets in self._targets(runner, changed).items():
            for step in targets:
                setattr(step, key, tuple(changed[key]))
        if changed:
            runner.logger.info(f'Iteration {iteration}: {", ".join(f"{key} {value}" for key, value in changed.items())}')
        return bool(changed)

    @staticmethod
    def _targets(runner: Runner, phase: dict) -> dict[str, list[Any]]:
        """The steps of the training pipeline whose sizes a phase names. Raises InputError where there is none."""
        steps = list(_steps(runner.train_dataloader.dataset, set()))
        found = {key: [step for step in steps if type(step).__name__ in _SIZES[key]] for key in phase if key in _SIZES}
        for key, targets in found.items():
            if not targets:
                raise InputError(
                    f'ProgressiveWindowHook has a {key}, but the training pipeline has no '
                    f'{" or ".join(_SIZES[key])}; remove it from the schedule'
                )
        return found


def _counts_iterations(runner: Runner) -> bool:
    return hasattr(runner.train_loop, 'dataloader_iterator')


def _steps(item: Any, seen: set[int]) -> Iterator[Any]:
    """The transforms of a data set, however deep in wrappers of data sets and of transforms (RandomChoice, RandomApply)."""
    if item is None or isinstance(item, (str, bytes, int, float, dict)) or id(item) in seen:
        return
    seen.add(id(item))
    if isinstance(item, (list, tuple)):
        for inner in item:
            yield from _steps(inner, seen)
        return
    if type(item).__name__ in _SIZED:
        yield item
    for name in ('datasets', 'dataset', 'pipeline', 'transforms'):
        yield from _steps(getattr(item, name, None), seen)
