"""Whether a config has the parts and the numbers that a tool requires."""

from typing import Any

from mmengine.config import Config

from mmvitscale.errors import InputError

# Numbers that a config has whatever its task -> the least that each may be.
_NUMBERS = {
    **{f'{split}_dataloader.batch_size': 1 for split in ('train', 'val', 'test')},
    **{f'{split}_dataloader.num_workers': 0 for split in ('train', 'val', 'test')},
    'train_cfg.max_iters': 1,
    'train_cfg.max_epochs': 1,
    'train_cfg.val_interval': 1,
    'train_cfg.val_begin': 0,
    'randomness.seed': 0,
    'optim_wrapper.accumulative_counts': 1,
    'optim_wrapper.optimizer.lr': 0,
    'optim_wrapper.optimizer.weight_decay': 0,
}


def check_parts(cfg: Config, *names: str) -> None:
    """Raise InputError unless the config has these parts, and its data loaders a data set."""
    for name in names:
        part = cfg.get(name)
        if not isinstance(part, dict) or not part:
            raise InputError(
                f'config {cfg.filename} has no {name} ({name}={part!r}), a dict; inherit one of the recipes with _base_'
            )
        if name.endswith('_dataloader') and not isinstance(part.get('dataset'), dict):
            raise InputError(f'{name} of config {cfg.filename} has no dataset, a dict; add it')


def check_numbers(cfg: Config) -> None:
    """Raise InputError where a number of the training is none, or too small."""
    for path, least in _NUMBERS.items():
        *folders, key = path.split('.')
        part: Any = cfg
        for folder in folders:
            part = part.get(folder) if isinstance(part, dict) or part is cfg else None
        value = part.get(key) if isinstance(part, dict) else None
        if key in ('max_iters', 'max_epochs') and isinstance(value, float) and value.is_integer() and value >= least:
            continue  # 1e5
        rate = key in ('lr', 'weight_decay', 'val_interval')
        fits = isinstance(value, (int, float) if rate else int) and not isinstance(value, bool) and value >= least
        if value is not None and not fits:
            raise InputError(
                f'{path}={value!r} found, but it is a {"" if rate else "whole "}number of at least {least}; correct it'
            )
