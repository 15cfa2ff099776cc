"""A training built from a config: checked, fitted to the hardware, with what ``tools/train.py`` adds to it."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import RUNNERS

from mmvitscale.config import runtime
from mmvitscale.config.cached_text import with_cached_text
from mmvitscale.config.training_options import check_trackers
from mmvitscale.config.validation import check_ignored_labels, check_losses, check_parts, check_schedulers
from mmvitscale.datasets.checks import check_datasets
from mmvitscale.engine import batch_size

if TYPE_CHECKING:  # the command line is read before DeepSpeed is imported, which takes seconds
    from mmengine.runner import Runner


def build_training(
    cfg: Config,
    work_dir: str | None = None,
    launcher: str = 'none',
    amp: bool = False,
    force_amp: bool = False,
    auto_scale_lr: bool = False,
    accumulate_grad: int = 1,
    resume: str | None = None,
    resume_schedule: str = 'config',
) -> 'Runner':
    """The runner of a config, ready for ``train``. It draws its first batch, and finds the batch where the config has
    ``train_dataloader.batch_size='auto'``.

    Args:
        cfg: changed in place.
        work_dir: where logs and checkpoints go; None: the config's, or work_dirs/<config name>.
        launcher: none, pytorch or slurm.
        amp, force_amp: mixed precision; forced also where the CPU emulates it.
        auto_scale_lr: scale the learning rate with the batch of all processes.
        accumulate_grad: batches for an update of the weights.
        resume: a checkpoint, or 'auto' for the latest complete one in the work folder.
        resume_schedule: config or checkpoint, whose learning rates hold where they differ.

    Raises:
        InputError: for what cannot be trained.
    """
    check_parts(cfg, 'model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
    check_losses(cfg)
    check_ignored_labels(cfg)
    check_schedulers(cfg)
    runtime.check_packages(cfg)
    check_datasets(cfg, ('train', 'val'))
    check_trackers(cfg)
    runtime.use_work_dir(cfg, work_dir)
    precision = runtime.describe_precision(cfg, amp, force_amp)

    def prepare(cfg: Config, launcher: str) -> None:
        runtime.fit_to_hardware(cfg, launcher, force_amp)
        if amp or force_amp:
            runtime.use_mixed_precision(cfg, force_amp)
        if accumulate_grad != 1:
            runtime.accumulate_gradients(cfg, accumulate_grad)

    found = _find_batch(cfg, prepare, launcher)
    if auto_scale_lr:
        runtime.scale_learning_rate(cfg)
    if resume:
        cfg.resume = True
        cfg.load_from = None if resume == 'auto' else resume
        cfg.resume_schedule = resume_schedule
    _draw_first_batch(cfg)
    _compile_by_default(cfg)
    runner = RUNNERS.build(with_cached_text(cfg))
    for advice in (precision, found, runtime.describe_batch(cfg, runner.world_size)):
        if advice:
            runner.logger.info(advice)
    return runner


def _find_batch(cfg: Config, prepare: Callable[[Config, str], None], launcher: str) -> str | None:
    """Fit a config to the hardware, and set its batch where it is to be found; a line about that."""
    if not batch_size.is_wanted(cfg):
        prepare(cfg, launcher)
        return None
    images, refused = batch_size.find_batch_size(cfg, prepare)
    cfg.train_dataloader.batch_size = images
    prepare(cfg, launcher)
    cfg.train_dataloader.batch_size = images = batch_size.agree(cfg, images)
    out = f'; {", ".join(map(str, refused))} ran out of memory' if refused else ''
    return f'--batch-size auto: batches of {images} images for each process{out}'


def _compile_by_default(cfg: Config) -> None:
    """Where there is a CUDA GPU, and the config says nothing of compiling, of a strategy or of a runner of its own.
    ``compile=False`` leaves it out."""
    ours = cfg.get('runner_type') == 'mmvitscale.Runner' and not cfg.get('strategy')
    if torch.cuda.is_available() and cfg.get('compile') is None and ours:
        cfg.compile = ConfigDict(target='auto')


def _draw_first_batch(cfg: Config) -> None:
    """``default_hooks=dict(training_batch_picture=None)`` in a config leaves it out."""
    hooks = cfg.setdefault('default_hooks', ConfigDict())
    own = hooks.get('training_batch_picture', ConfigDict())
    if own is None:
        hooks.pop('training_batch_picture')
    else:
        hooks.training_batch_picture = ConfigDict({'type': 'mmvitscale.TrainingBatchPictureHook', **own})
