"""Own data to a trained model in one call: ``mmvitscale.train('data/cells', out='runs/cells')``."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmvitscale.autoconfig.propose import propose_config
from mmvitscale.checkpoints.resume import latest_complete_checkpoint
from mmvitscale.config.loading import load_config
from mmvitscale.config.training_options import TrainingOptions
from mmvitscale.errors import InputError

if TYPE_CHECKING:
    from mmvitscale.inference import Predictor


def train(
    data: str | Path,
    out: str | Path,
    *,
    task: str | None = None,
    format: str | None = None,
    classes: Sequence[str] | None = None,
    gpu_memory: float | None = None,
    frozen: bool = False,
    skip_invalid: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    track: Sequence[str] = (),
    ema: bool = False,
    early_stop: int | None = None,
    batch_size: int | str | None = None,
    amp: bool = False,
    cfg_options: Mapping[str, Any] | None = None,
) -> 'Predictor':
    """Train on data of any annotation format, and return what predicts: ``tools/new_config.py`` and ``tools/train.py`` in one.

    Progress is logged, and written into the folder with the config, the checkpoints and the log.

    Args:
        data, task, format, classes, gpu_memory, frozen, skip_invalid: as in ``propose_config``.
        out: folder of the training; ``out/config.py`` is the config, ``out/best.pth`` the best checkpoint.
        overwrite: begin again where a training is.
        resume: go on with the training that is there, with its config.
        track: experiment trackers, such as ``['tensorboard']``.
        ema: average the weights.
        early_stop: validations without an improvement after which the training ends.
        batch_size: images, or 'auto' on a GPU.
        amp: mixed precision.
        cfg_options: overrides of the config, such as ``{'train_cfg.max_iters': 200}``.

    Raises:
        InputError: for data that cannot be trained on, or a folder that holds something else.
    """
    from mmvitscale.engine.training import build_training
    from mmvitscale.inference import Predictor

    folder = Path(out).expanduser()
    config = folder / 'config.py'
    if resume and config.is_file():
        print(f'resumed: {config}')
    else:
        _make_room(folder, config, overwrite)
        options = TrainingOptions(track, ema, early_stop, batch_size)
        for line in propose_config(data, config, task, format, classes, gpu_memory, frozen, skip_invalid, overwrite, options):
            print(line)
    cfg = load_config(str(config), dict(cfg_options or {}))
    if cfg.get('visualizer'):
        # MMEngine keeps one of a name in a process: the next training would write into the folder of this one.
        cfg.visualizer.name = f'{folder.resolve()} {time.time_ns()}'
    runner = build_training(cfg, str(folder), amp=amp, resume='auto' if resume else None)
    runner.train()
    return Predictor(_best_checkpoint(folder))


def _make_room(folder: Path, config: Path, overwrite: bool) -> None:
    """Remove the checkpoints of a training that is to be replaced. Raises InputError for a folder with something else."""
    if folder.is_dir() and any(folder.iterdir()):
        if not overwrite:
            raise InputError(f'{folder} holds something already; choose another out, or resume=True, or overwrite=True')
        if not config.is_file():
            raise InputError(f'{folder} holds something, but no training with {config.name}; choose another out')
        for path in [*folder.glob('*.pth'), folder / 'last_checkpoint']:
            path.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)


def _best_checkpoint(folder: Path) -> Path:
    best = folder / 'best.pth'
    latest = latest_complete_checkpoint(folder)
    if not best.is_file() and latest is None:
        raise InputError(f'{folder} holds no checkpoint; train for at least one interval of default_hooks.checkpoint')
    return best if best.is_file() or latest is None else Path(latest)
