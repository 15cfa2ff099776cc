"""From a config's name or file and ``--cfg-options`` to a config.

Configs of this package are found by name, from a wheel as from a checkout: by ``load_config``, and in ``_base_`` as
``'mmvitscale::swinv2_upernet_ade20k'`` in every process that has imported mmvitscale. Those of OpenMMLab's packages are found
by MMEngine's form, ``'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'``.
"""

import json
import logging
from difflib import get_close_matches
from fnmatch import fnmatch
from functools import cache, lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from traceback import walk_tb

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from mmvitscale.config.training_options import without_trackers
from mmvitscale.errors import InputError
from mmvitscale.utils.error_translation import message_of

_SCHEME = 'mmvitscale::'


def configs_folder() -> Path:
    """Where the configs are: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parents[1]
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
def _history(kind: str) -> dict[str, str]:
    """Of configs of the release before: 'renamed', old names and new ones; 'removed', names and what to take instead."""
    return json.loads((configs_folder() / 'renamed.json').read_text())[kind]


def find_config(name: str) -> Path:
    """A config's path, or the name of one of this package's (with or without ``configs/``, folder and ``.py``), or
    ``package::name`` of one that another package installed -> its path.

    Raises:
        InputError: for what is neither.
    """
    if not name.startswith(_SCHEME) and Path(name).is_file():
        return Path(name)
    if '::' in name and not name.startswith(_SCHEME):
        return _find_in_package(*name.split('::', 1))
    parts = Path(name.removeprefix(_SCHEME)).parts
    *folders, file = parts[parts.index('configs') + 1 :] if 'configs' in parts[:-1] else parts or ('',)
    stem = file.removesuffix('.py')
    if stem in _history('renamed') and folders in ([], ['swinv2'], ['deepvit']):
        print_log(
            f'config {stem} is called {_history("renamed")[stem]} now; the old name goes with the next release',
            'current',
            level=logging.WARNING,
        )
        stem, folders = _history('renamed')[stem], []
    if stem in _history('removed'):
        raise InputError(f'config {stem} was removed: its weights were never published; {_history("removed")[stem]}')
    path = configs_folder().joinpath(*folders, f'{stem}.py') if folders else _recipes().get(stem)
    if path is None or not path.is_file():
        close = get_close_matches(stem, _recipes(), n=1, cutoff=0.5)
        raise InputError(
            f'config {name} is not there; {f"did you mean {close[0]}? " if close else ""}'
            'mmvitscale.list_configs() names those of the package'
        )
    return path


def _find_in_package(package: str, name: str) -> Path:
    """A config among those that OpenMMLab's packages install, by its path there or by its name alone. MMEngine knows the
    packages by their distributions, and has configs without a metafile for ``_base_`` alone."""
    spec = find_spec(package) if package.isidentifier() else None
    folder = Path(spec.origin).parent / '.mim' / 'configs' if spec and spec.origin else None
    if folder is None or not folder.is_dir():
        raise InputError(
            f'config {package}::{name} is one of the package {package}, which is not installed with its configs; install it, '
            'or give the path of the config'
        )
    stem = name.removesuffix('.py')
    if stem and folder.joinpath(f'{stem}.py').is_file():
        return folder / f'{stem}.py'
    paths = {path.relative_to(folder).with_suffix('').as_posix(): path for path in sorted(folder.rglob('*.py'))}
    named = [path for path in paths.values() if path.stem == stem]
    if len(named) == 1:
        return named[0]
    close = get_close_matches(stem, paths, n=1, cutoff=0.5)
    raise InputError(
        f'config {package}::{name} is not there; {f"did you mean {package}::{close[0]}.py? " if close else ""}'
        f'those of {package} are in {folder}'
    )


def _extend_mmengine_base_lookup() -> None:
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
        past = {**_history('renamed'), **_history('removed')}
        return (str(find_config(path)) if Path(path).stem in past and not Path(path).is_file() else path), scope

    Config._get_cfg_path = staticmethod(get_cfg_path)


_extend_mmengine_base_lookup()


def load_config(path: str, options: dict | None = None) -> Config:
    """Path of a config, or the name of one of this package's, and ``key=value`` overrides -> the config.

    An override of ``data_root`` moves every path that lay under the old one, in datasets and evaluators, but for those that
    other overrides give.

    Raises:
        InputError: for a file that is not there, cannot be read or needs a package that is not installed.
    """
    file = find_config(str(path))
    try:
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
    apply_options(cfg, options, f'config {path}')
    return cfg


def apply_options(cfg: Config, options: dict | None, name: str) -> None:
    """Override a config, in place. An override of ``data_root`` moves every path that lay under the old one, in datasets and
    evaluators, but for those that other overrides give.

    Args:
        cfg: changed in place.
        options: ``key=value``; None for none.
        name: of the config, for the message.

    Raises:
        InputError: for keys that the config cannot have.
    """
    if not options:
        return
    old_root = cfg.get('data_root')
    if 'data_root' in options and old_root:  # before the options, which may name other places
        for key, value in cfg.items():
            cfg[key] = _rebase(value, str(old_root).rstrip('/'), str(options['data_root']).rstrip('/'))
    try:
        cfg.merge_from_dict(options)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f'--cfg-options do not fit {name} ({message_of(error)}); give the keys that it has, numbers for those of a list'
        ) from error


def _line_of(error: BaseException) -> str:
    """Where in a config it was raised. MMEngine runs a copy of the file, under another name."""
    lines = [
        line
        for frame, line in walk_tb(error.__traceback__)
        if frame.f_code.co_name == '<module>' and 'mmengine' not in frame.f_code.co_filename
    ]
    return f', line {lines[-1]}' if lines else ''


def load_test_config(path: str, options: dict | None = None) -> Config:
    """The same for testing and predicting: ``test_windows`` says whose windows run, the checkpoint's or the config's. Raises
    InputError where it is neither."""
    from mmvitscale.checkpoints.window_policy import (
        test_windows_of,  # the package itself is imported without PyTorch's optimizers
    )

    cfg = load_config(path, options)
    without_trackers(cfg)
    cfg.pop('strategy', None)  # how a training is spread over processes; a model is tested whole in each
    cfg.test_windows = test_windows_of(cfg, options)
    return cfg


STRATEGIES = ('ddp', 'zero1', 'deepspeed_zero1', 'fsdp')
# Whose learning rates a resumed training has (engine/resumed_schedule.py).
RESUME_SCHEDULES = ('config', 'checkpoint')


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
