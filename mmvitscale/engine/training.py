"""A training built from a config: checked, fitted to the hardware, with what ``tools/train.py`` adds to it."""

from typing import TYPE_CHECKING

from mmengine.config import Config
from mmengine.registry import RUNNERS

from mmvitscale.config import runtime
from mmvitscale.config.validation import check_ignored_labels, check_losses, check_parts, check_schedulers
from mmvitscale.datasets.checks import check_datasets

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
    """The runner of a config, ready for ``train``.

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
    runtime.use_work_dir(cfg, work_dir)
    precision = runtime.describe_precision(cfg, amp, force_amp)
    runtime.fit_to_hardware(cfg, launcher, force_amp)
    if amp or force_amp:
        runtime.use_mixed_precision(cfg, force_amp)
    if accumulate_grad != 1:
        runtime.accumulate_gradients(cfg, accumulate_grad)
    if auto_scale_lr:
        runtime.scale_learning_rate(cfg)
    if resume:
        cfg.resume = True
        cfg.load_from = None if resume == 'auto' else resume
        cfg.resume_schedule = resume_schedule
    runner = RUNNERS.build(cfg)
    for advice in (precision, runtime.describe_batch(cfg, runner.world_size)):
        if advice:
            runner.logger.info(advice)
    return runner
