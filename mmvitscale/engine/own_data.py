"""Own data to a trained model in one call: ``mmvitscale.train('data/cells', out='runs/cells')``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmvitscale.autoconfig.propose import propose_config
from mmvitscale.checkpoints.resume import latest_complete_checkpoint
from mmvitscale.config.loading import load_config
from mmvitscale.errors import InputError

if TYPE_CHECKING:
    from mmvitscale.inference import Predictor


def train(
    data: str | Path,
    out: str | Path,
    task: str | None = None,
    format: str | None = None,
    classes: Sequence[str] | None = None,
    gpu_memory: float | None = None,
    frozen: bool = False,
    skip_invalid: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    cfg_options: Mapping[str, Any] | None = None,
    **training: Any,
) -> 'Predictor':
    """Train on data of any annotation format, and return what predicts: ``new_config`` and ``train`` in one.

    Progress is logged, and written into the folder with the config, the checkpoints and the log.

    Args:
        data, task, format, classes, gpu_memory, frozen, skip_invalid: as in ``propose_config``.
        out: folder of the training; ``out/config.py`` is the config.
        overwrite: replace a training that is there.
        resume: go on with the training that is there, with its config.
        cfg_options: overrides of the config, such as ``{'train_cfg.max_iters': 200}``.
        training: as in ``engine.training.build_training``, such as ``amp=True``.

    Raises:
        InputError: for data that cannot be trained on, or a folder that holds another training.
    """
    from mmvitscale.engine.training import build_training
    from mmvitscale.inference import Predictor

    folder = Path(out).expanduser()
    config = folder / 'config.py'
    if resume and config.is_file():
        print(f'resumed: {config}')
    else:
        if folder.is_dir() and any(folder.iterdir()) and not overwrite:
            raise InputError(f'{folder} holds something already; choose another out, or resume=True, or overwrite=True')
        folder.mkdir(parents=True, exist_ok=True)
        for line in propose_config(data, config, task, format, classes, gpu_memory, frozen, skip_invalid, overwrite):
            print(line)
    cfg = load_config(str(config), dict(cfg_options or {}))
    runner = build_training(cfg, str(folder), resume='auto' if resume else None, **training)
    runner.train()
    return Predictor(_best_checkpoint(folder))


def _best_checkpoint(folder: Path) -> Path:
    best = folder / 'best.pth'
    latest = latest_complete_checkpoint(folder)
    if not best.is_file() and latest is None:
        raise InputError(f'{folder} holds no checkpoint; train for at least one interval of default_hooks.checkpoint')
    return best if best.is_file() or latest is None else Path(latest)
