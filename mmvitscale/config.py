"""From a config's name or file and ``--cfg-options`` to a config.

Configs of this package are found by name, from a wheel as from a checkout: by ``load_config``, and in ``_base_`` as
``'mmvitscale::swinv2_upernet_ade20k'`` in every process that has imported mmvitscale.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from fnmatch import fnmatch
from functools import cache, lru_cache, partial
from pathlib import Path
from traceback import walk_tb
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from .errors import InputError
from .mistakes import message_of
from .torchvision_shim import make_torchvision_importable

_SCHEME = 'mmvitscale::'


def configs_folder() -> Path:
    """Where the configs are: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parent
    packed = package / '.mim' / 'configs'
    return packed if packed.is_dir() else package.parent / 'configs'


def _recipes() -> dict[str, Path]:
    """Names -> paths of all that can be trained, those of the top folder first."""
    root = configs_folder()
    paths = [path.relative_to(root) for path in root.rglob('*.py') if '_base_' not in path.relative_to(root).parts]
    return {path.stem: root / path for path in sorted(paths, key=lambda path: (len(path.parts), path))}


def list_configs(pattern: str = '*') -> list[str]:
    """Names of the package's configs that match a shell pattern such as ``'*upernet*'``, for ``load_config``."""
    return [name for name in _recipes() if fnmatch(name, pattern)]


@cache
def _renamed() -> dict[str, str]:
    """Names that configs had in the release before -> theirs now."""
    return json.loads((configs_folder() / 'renamed.json').read_text())


def find_config(name: str) -> Path:
    """A config's path, or the name of one of this package's (with or without ``configs/``, folder and ``.py``) -> its path.

    Raises:
        InputError: for what is neither.
    """
    if not name.startswith(_SCHEME) and Path(name).is_file():
        return Path(name)
    parts = Path(name.removeprefix(_SCHEME)).parts
    *folders, file = parts[parts.index('configs') + 1 :] if 'configs' in parts[:-1] else parts or ('',)
    stem = file.removesuffix('.py')
    if stem in _renamed() and folders in ([], ['swinv2'], ['deepvit']):
        print_log(
            f'config {stem} is called {_renamed()[stem]} now; the old name goes with the next release',
            'current',
            level=logging.WARNING,
        )
        stem, folders = _renamed()[stem], []
    path = configs_folder().joinpath(*folders, f'{stem}.py') if folders else _recipes().get(stem)
    if path is None or not path.is_file():
        close = get_close_matches(stem, _recipes(), n=1, cutoff=0.5)
        raise InputError(
            f'config {name} is not there; {f"did you mean {close[0]}? " if close else ""}'
            'mmvitscale.list_configs() names those of the package'
        )
    return path


def _teach_mmengine() -> None:
    """Let ``_base_`` name this package's configs, and those that were renamed.

    MMEngine finds ``package::`` for a list of packages of its own only, wants a folder in the name, and then looks up every
    type in that package, where mmdetection's and mmsegmentation's are not. To find one config of a package it parses a
    hundred files; here, once in a process.
    """
    resolve = Config._get_cfg_path
    resolve_in_package = lru_cache(maxsize=None)(partial(resolve, filename=None))

    def get_cfg_path(cfg_path, filename):
        if cfg_path.startswith(_SCHEME):
            return str(find_config(cfg_path)), None
        path, scope = resolve_in_package(cfg_path) if '::' in cfg_path else resolve(cfg_path, filename)
        renamed = Path(path).stem in _renamed() and not Path(path).is_file()
        return (str(find_config(path)) if renamed else path), scope

    Config._get_cfg_path = staticmethod(get_cfg_path)


_teach_mmengine()


def load_config(path: str, options: dict | None = None) -> Config:
    """Path of a config, or the name of one of this package's, and ``key=value`` overrides -> the config.

    An override of ``data_root`` moves every path that lay under the old one, in datasets and evaluators alike.

    Raises:
        InputError: for a file that is not there, cannot be read or needs a package that is not installed.
    """
    file = find_config(str(path))
    try:
        try:
            cfg = Config.fromfile(file)
        except ImportError:
            if not make_torchvision_importable():  # for configs that import mmpretrain
                raise
            cfg = Config.fromfile(file)
    except InputError:
        raise
    except ImportError as error:
        raise InputError(
            f'config {path} needs a package that is not installed ({message_of(error)}); install it, '
            "for detection with: pip install -c constraints.txt -e '.[det]'"
        ) from error
    except (Exception, SystemExit) as error:  # a config is a program: it may raise anything
        raise InputError(f'config {path} cannot be read ({message_of(error)}{_line_of(error)}); correct it') from error
    if options:
        old_root = cfg.get('data_root')
        try:
            cfg.merge_from_dict(options)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f'--cfg-options do not fit config {path} ({message_of(error)}); give the keys that it has, '
                'numbers for those of a list'
            ) from error
        if 'data_root' in options and old_root:
            for key, value in cfg.items():
                cfg[key] = _rebase(value, str(old_root).rstrip('/'), str(options['data_root']).rstrip('/'))
    return cfg


def _line_of(error: BaseException) -> str:
    """Where in a config it was raised. MMEngine runs a copy of the file, under another name."""
    lines = [
        line
        for frame, line in walk_tb(error.__traceback__)
        if frame.f_code.co_name == '<module>' and 'mmengine' not in frame.f_code.co_filename
    ]
    return f', line {lines[-1]}' if lines else ''


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


def load_test_config(path: str, options: dict | None = None) -> Config:
    """The same for testing and predicting: ``test_windows`` says whose windows run, the checkpoint's or the config's. Raises
    InputError where it is neither."""
    from .checkpoints.windows import tested_windows  # the package itself is imported without PyTorch's optimizers

    cfg = load_config(path, options)
    cfg.pop('strategy', None)  # how a training is spread over processes; a model is tested whole in each
    cfg.test_windows = tested_windows(cfg, options)
    return cfg


STRATEGIES = ('ddp', 'zero1', 'deepspeed_zero1', 'fsdp')


def add_strategy(cfg: Config, name: str) -> None:
    """Add how a model is spread over processes, one of STRATEGIES: a fragment in ``configs/_base_/scale``."""
    cfg.merge_from_dict(Config.fromfile(configs_folder() / '_base_' / 'scale' / f'{name}.py')._cfg_dict)


def _rebase(value, old: str, new: str):
    """Every string ``old`` or ``old/...`` inside nested dicts and lists, with ``new`` in place of ``old``."""
    if isinstance(value, dict):
        return ConfigDict({key: _rebase(item, old, new) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return type(value)(_rebase(item, old, new) for item in value)
    if isinstance(value, str) and (value.rstrip('/') == old or value.startswith(old + '/')):
        return new + value[len(old) :]
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


def values_of(item: Any, key: str) -> Iterator[Any]:
    """Every value of this key in nested dicts and lists."""
    if isinstance(item, dict):
        if key in item:
            yield item[key]
        item = list(item.values())
    for inner in item if isinstance(item, (list, tuple)) else ():
        yield from values_of(inner, key)
