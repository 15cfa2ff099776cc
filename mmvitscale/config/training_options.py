"""What is expected of a training whatever its task, added to a config: experiment tracking, EMA, early stopping, batch size.

``tools/train.py`` calls the functions; ``training_option_lines`` gives the lines of a config that have the same effect.
"""

import importlib.util
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mmengine.config import Config, ConfigDict

from mmvitscale.config.view import ConfigView
from mmvitscale.errors import InputError
from mmvitscale.registry import type_name
from mmvitscale.utils.choices import AUTO, TRACKERS

# The average follows the weights with max(0.0002, 10 / (10 + updates)): the ramp of TensorFlow's ExponentialMovingAverage
# (decay min(decay, (1 + n) / (10 + n))), by which it is over the last tenth of a training of any length until, after 50000
# updates, the 0.0002 of YOLOX and RTMDet holds. Buffers (BatchNorm) are averaged with the weights, as theirs are.
_EMA = dict(type='EMAHook', ema_type='MomentumAnnealingEMA', momentum=0.0002, gamma=10, update_buffers=True)

# What tasks are judged by, the first that a validation gives.
_MAIN_METRICS = ('mIoU', 'coco_panoptic/PQ', 'coco/segm_mAP', 'coco/bbox_mAP', 'accuracy/top1')


@dataclass(frozen=True)
class TrainingOptions:
    """track: names of TRACKERS. early_stop: validations without improvement. batch_size: a number, or AUTO."""

    track: Sequence[str] = ()
    ema: bool = False
    early_stop: int | None = None
    batch_size: int | str | None = None

    def __post_init__(self) -> None:
        if self.early_stop is not None:
            _check_patience(self.early_stop)
        if self.batch_size not in (None, AUTO) and int(self.batch_size or 0) < 1:
            raise InputError(f'--batch-size {self.batch_size} found, but it is a number of images, 1 or more, or {AUTO}')

    def lines(self) -> list[str]:
        """Of a config (``training_option_lines``)."""
        return training_option_lines(self.track, self.ema, self.early_stop, self.batch_size)


def main_metric(names: Iterable[str]) -> str:
    """Names of what a validation measured -> the one that its task is judged by: mIoU, panoptic quality, COCO's average
    precision of masks or else of boxes, top-1 accuracy; of others the first."""
    names = list(names)
    return next((name for name in _MAIN_METRICS if name in names), names[0])


def less_is_better(metric: str) -> bool:
    """Whether a metric falls while a model improves, by the words in its name (loss, error, ...)."""
    words = set(re.split('[^a-z]+', metric.lower()))
    return bool(words & {'loss', 'error', 'mae', 'mse', 'rmse', 'epe', 'nme', 'fid', 'perplexity'})


def add_training_options(
    cfg: Config,
    track: Sequence[str] = (),
    ema: bool = False,
    early_stop: int | None = None,
    batch_size: int | str | None = None,
) -> None:
    """Add those that are given to a config, in place: the functions below, one for each."""
    if track:
        track_with(cfg, track)
    if ema:
        average_weights(cfg)
    if early_stop is not None:
        stop_early(cfg, early_stop)
    if batch_size is not None:
        set_batch_size(cfg, batch_size)


def track_with(cfg: Config, names: Sequence[str]) -> None:
    """Let a training's metrics, config and pictures arrive in these experiment trackers, too (``TRACKERS``). What the
    visualizer of the config has stays. Raises InputError for a package that is not installed."""
    backends = list(_backends(cfg) or [ConfigDict(type='LocalVisBackend')])
    there = {type_name(backend) for backend in backends}
    for kind in dict.fromkeys(TRACKERS[name][0] for name in names):
        if kind not in there:
            backends.append(ConfigDict(type=f'mmvitscale.{kind}'))
    if not cfg.get('visualizer'):
        cfg.visualizer = ConfigDict(type='Visualizer')
    cfg.visualizer.vis_backends = backends
    check_trackers(cfg)


def check_trackers(cfg: Config) -> None:
    """Raise InputError if a config tracks its training with a package that is not installed."""
    for backend in _backends(cfg):
        for name, (kind, package) in TRACKERS.items():
            if type_name(backend) == kind and importlib.util.find_spec(package) is None:
                raise InputError(
                    f'{kind} found ({name}), which needs the package {package}; get it with: pip install {package}'
                )


def without_trackers(cfg: Config) -> None:
    """Leave the trackers out of a config: a test is no training."""
    kinds = {kind for kind, _ in TRACKERS.values()}
    found = _backends(cfg)
    kept = [backend for backend in found if type_name(backend) not in kinds]
    if len(kept) < len(found):
        cfg.visualizer.vis_backends = kept


def _backends(cfg: Config) -> list[ConfigDict]:
    visualizer = cfg.get('visualizer')
    found = (visualizer.get('vis_backends') if isinstance(visualizer, dict) else None) or []
    return [found] if isinstance(found, dict) else [backend for backend in found if isinstance(backend, dict)]


def average_weights(cfg: Config) -> None:
    """Average the weights during a training (exponential moving average): the averages are validated, saved as the model, and
    kept as the best checkpoint. A config that averages already stays as it is."""
    if not ConfigView(cfg).hooks('EMAHook'):
        _add_hook(cfg, _EMA)


def stop_early(cfg: Config, validations: int) -> None:
    """End a training after so many validations in a row without an improvement of its main metric. Raises InputError for less
    than one, or a config without validation."""
    _check_patience(validations)
    if not cfg.get('val_dataloader') or not cfg.get('val_evaluator'):
        raise InputError(
            f'--early-stop {validations} found, but config {cfg.filename} has no validation to stop by; add '
            'val_dataloader, val_evaluator and val_cfg, or leave the option out'
        )
    hooks = ConfigView(cfg).hooks('EarlyStoppingHook')
    for hook in hooks:
        hook.patience = validations
    if not hooks:
        _add_hook(cfg, _early_stopping(validations))


def _check_patience(validations: int) -> None:
    if validations < 1:
        raise InputError(f'--early-stop {validations} found, but it is the number of validations to wait, 1 or more')


def set_batch_size(cfg: Config, images: int | str) -> None:
    """Images in a training batch of one process, or 'auto': as many as fit into the GPU. The learning rate stays as it is."""
    cfg.train_dataloader.batch_size = images


def _early_stopping(validations: int) -> dict:
    return dict(type='mmvitscale.EarlyStoppingHook', patience=validations)


def _add_hook(cfg: Config, hook: dict) -> None:
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), ConfigDict(hook)]


def training_option_lines(
    track: Sequence[str] = (),
    ema: bool = False,
    early_stop: int | None = None,
    batch_size: int | str | None = None,
) -> list[str]:
    """The lines at the end of a config that inherits one of our recipes, and has a ``train_dataloader`` but no custom hooks of
    its own, by which it is what ``add_training_options`` makes of it."""
    lines = []
    if track:
        kinds = dict.fromkeys(TRACKERS[name][0] for name in track)
        added = ', '.join(f"dict(type='mmvitscale.{kind}')" for kind in kinds)
        lines.append(f'visualizer = dict(vis_backends=[*_base_.visualizer.vis_backends, {added}])')
    hooks = [*([_EMA] if ema else []), *([_early_stopping(early_stop)] if early_stop is not None else [])]
    if hooks:
        lines.append('custom_hooks = [')
        lines.append('    *_base_.custom_hooks,')
        lines += [f'    dict({", ".join(f"{key}={value!r}" for key, value in hook.items())}),' for hook in hooks]
        lines.append(']')
    if batch_size is not None:
        lines.append(f"train_dataloader['batch_size'] = {batch_size!r}")
    return lines
