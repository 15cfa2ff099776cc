"""From a config file and ``--cfg-options`` to a config."""

from pathlib import Path
from typing import Iterator, Optional, Sequence

from mmengine.config import Config, ConfigDict

from .checkpoints.windows import tested_windows
from .errors import InputError


def load_config(path: str, options: Optional[dict] = None) -> Config:
    """Path of a config and ``key=value`` overrides -> the config.

    An override of ``data_root`` moves every path that lay under the old one, in datasets and evaluators alike.

    Raises:
        InputError: for a file that is not there, cannot be read or needs a package that is not installed.
    """
    if not Path(path).is_file():
        raise InputError(f'config {path} is not there; the configs are listed in configs/')
    try:
        cfg = Config.fromfile(path)
    except ImportError as error:
        raise InputError(f'config {path} needs a package that is not installed ({error}); install it, for detection '
                         "with: pip install -c constraints.txt -e '.[det]'") from error
    except (OSError, SyntaxError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f'config {path} cannot be read: {type(error).__name__}: {error}') from error
    if options:
        old_root = cfg.get('data_root')
        cfg.merge_from_dict(options)
        if 'data_root' in options and old_root:
            for key, value in cfg.items():
                cfg[key] = _rebase(value, str(old_root).rstrip('/'), str(options['data_root']).rstrip('/'))
    return cfg


def load_test_config(path: str, options: Optional[dict] = None) -> Config:
    """The same for testing and predicting: ``test_windows`` says whose windows run, the checkpoint's or the config's. Raises
    InputError where it is neither."""
    cfg = load_config(path, options)
    cfg.test_windows = tested_windows(cfg, options)
    return cfg


def _rebase(value, old: str, new: str):
    """Every string ``old`` or ``old/...`` inside nested dicts and lists, with ``new`` in place of ``old``."""
    if isinstance(value, dict):
        return ConfigDict({key: _rebase(item, old, new) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return type(value)(_rebase(item, old, new) for item in value)
    if isinstance(value, str) and (value.rstrip('/') == old or value.startswith(old + '/')):
        return new + value[len(old):]
    return value


def dataloaders(cfg: Config, splits: Sequence[str]) -> Iterator[ConfigDict]:
    """The dataloaders that the config has for these splits (train, val, test)."""
    loaders = (cfg.get(f'{split}_dataloader') for split in splits)
    return (loader for loader in loaders if loader is not None)


def plain_datasets(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """The data sets inside wrappers such as ConcatDataset and RepeatDataset."""
    inner = dataset.get('datasets') or ([dataset.dataset] if 'dataset' in dataset else [])
    if not inner:
        yield dataset
    for item in inner:
        yield from plain_datasets(item)
