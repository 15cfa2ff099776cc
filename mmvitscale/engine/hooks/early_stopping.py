"""The hook that ends a training whose metric improves no more."""

import math
from pathlib import Path
from typing import Any

import mmengine.hooks
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmvitscale.config.training_options import less_is_better, main_metric
from mmvitscale.errors import InputError
from mmvitscale.registry import HOOKS


@HOOKS.register_module()
class EarlyStoppingHook(Hook):
    """Ends a training after ``patience`` validations in a row in which its metric did not improve.

    Unlike MMEngine's it goes on with its count when a training is resumed, counts NaN as no improvement, counts a metric that
    stays equal, and takes any improvement, however small. A training that is resumed from a checkpoint whose validation
    it does not contain (it was saved before) validates first.

    Args:
        patience: validations without improvement.
        monitor: name of the metric. None: what ``save_best`` names, or else what the task is judged by (``main_metric``).
        rule: 'greater' or 'less'; None: by the name.
        min_delta: what counts as an improvement is more than this.
    """

    priority = 'LOWEST'  # after the best checkpoint is saved

    def __init__(self, patience: int = 5, monitor: str | None = None, rule: str | None = None, min_delta: float = 0.0):
        if not isinstance(patience, int) or patience < 1 or rule not in (None, 'greater', 'less'):
            raise InputError(
                f'patience={patience!r} and rule={rule!r} found in EarlyStoppingHook, but they are a number of '
                "validations, 1 or more, and 'greater' or 'less'"
            )
        self.patience = patience
        self.monitor = monitor
        self.rule = rule
        self.min_delta = min_delta
        self._seen: list[tuple[int, float]] = []  # iteration and value of each validation

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keeps what was measured."""
        checkpoint['early_stopping'] = dict(monitor=self.monitor, seen=[list(pair) for pair in self._seen])

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Takes it, if a training goes on."""
        kept = checkpoint.get('early_stopping')
        if not runner._resume or not isinstance(kept, dict):
            return
        pairs = kept.get('seen')
        same = self.monitor in (None, kept.get('monitor'))
        if same and isinstance(pairs, list) and all(_is_pair(pair) for pair in pairs):
            self.monitor = kept.get('monitor')
            self._seen = [(pair[0], float(pair[1])) for pair in pairs]

    def before_train(self, runner: Runner) -> None:
        """Catches up with a training that is resumed, and warns of a patience that is too long to end anything."""
        if runner.val_loop is None:
            raise InputError(
                'EarlyStoppingHook found in a config without validation; add val_dataloader, val_evaluator and val_cfg, '
                'or leave it out'
            )
        loop = runner.train_loop
        counts_iterations = hasattr(loop, 'dataloader_iterator')
        done = runner.iter if counts_iterations else runner.epoch
        length, begin = (loop.max_iters if counts_iterations else loop.max_epochs), getattr(loop, 'val_begin', 1)
        if hasattr(loop, '_decide_current_val_interval'):  # which may change during a training
            loop._decide_current_val_interval()
        interval = int(loop.val_interval)
        if runner._resume and begin <= done < length and done % interval == 0 and runner.iter not in dict(self._seen):
            runner.logger.info(f'The checkpoint was saved before the validation of iteration {runner.iter}, which is run now.')
            runner.val_loop.run()
        elif self._seen:
            self._judge(runner)
        if not loop.stop_training and length // interval <= self.patience:
            runner.logger.warning(
                f'early stopping waits for {self.patience} validations without improvement, but this training has '
                f'{length // interval}: it will not be stopped; lower --early-stop, or train_cfg.val_interval'
            )

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Judges the validation. Raises InputError where it has no such metric."""
        train_loop = getattr(runner, '_train_loop', None)
        if not hasattr(train_loop, 'stop_training'):  # a validation outside of a training
            return
        self._seen = [pair for pair in self._seen if pair[0] < runner.iter]
        if not metrics:  # of a detector that finds nothing yet mmdetection measures nothing
            self._seen.append((runner.iter, math.nan))
            self._judge(runner)
            return
        if self.monitor is None:
            self.monitor = _best_by(runner) or main_metric(metrics)
        if self.monitor not in metrics:
            raise InputError(
                f'monitor={self.monitor!r} found in EarlyStoppingHook, but the validation gives {", ".join(metrics)}; choose '
                'one of them'
            )
        self._seen.append((runner.iter, float(metrics[self.monitor])))
        self._judge(runner)

    def _judge(self, runner: Runner) -> None:
        best, waited = self.stalled([value for _, value in self._seen])
        if waited < self.patience:
            return
        runner.train_loop.stop_training = True
        found = (
            f'the best is {self._seen[best][1]:.4f} of iteration {self._seen[best][0]}'
            if best is not None
            else 'no validation gave a number'
        )
        path = _best_checkpoint(runner)
        kept = f'; the best checkpoint is {path}' if path else ''
        metric = self.monitor or 'the metric'
        runner.logger.info(
            f'Early stopping at iteration {runner.iter}: {metric} has not improved for {waited} validations; {found}{kept}.'
        )

    def stalled(self, values: list[float]) -> tuple[int | None, int]:
        """Values of the metric, in order -> the index of the best one, None if all are NaN, and how many came after it."""
        less = self.rule == 'less' or self.rule is None and less_is_better(self.monitor or '')
        best = None
        for i, value in enumerate(values):
            gain = math.inf if best is None else (values[best] - value if less else value - values[best])
            if not math.isnan(value) and gain > self.min_delta:
                best = i
        return best, len(values) - 1 - (best if best is not None else -1)


def _is_pair(item: Any) -> bool:
    return isinstance(item, (list, tuple)) and len(item) == 2 and isinstance(item[0], int) and isinstance(item[1], (int, float))


def _checkpoint_hooks(runner: Runner) -> list[Any]:
    return [hook for hook in runner.hooks if isinstance(hook, mmengine.hooks.CheckpointHook) and hook.save_best]


def _best_by(runner: Runner) -> str | None:
    """The metric that the best checkpoint is chosen by."""
    for hook in _checkpoint_hooks(runner):
        if hook.key_indicators[0] != 'auto':
            return hook.key_indicators[0]
    return None


def _best_checkpoint(runner: Runner) -> Path | None:
    for hook in _checkpoint_hooks(runner):
        paths = [getattr(hook, 'best_ckpt_path', None), *getattr(hook, 'best_ckpt_path_dict', {}).values()]
        for path in filter(None, paths):
            return Path(path)
    return None
