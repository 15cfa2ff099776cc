"""Configs found by name or file. Of no need for MMEngine: that is imported for a config's content (``config/loading.py``).

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
from typing import Any

from mmvitscale.errors import InputError

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
        from mmengine.logging import print_log  # names are found without MMEngine

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


def extend_base_lookup(config_type: Any) -> None:
    """Let ``_base_`` name this package's configs, and those that were renamed. config_type: MMEngine's ``Config``.

    MMEngine finds ``package::`` for a list of packages of its own only, wants a folder in the name, and then looks up every
    type in that package, where mmdetection's and mmsegmentation's are not. To find one config of a package it parses a
    hundred files; here, once in a process.
    """
    resolve = config_type._get_cfg_path
    resolve_in_package = lru_cache(maxsize=None)(partial(resolve, filename=None))

    def get_cfg_path(cfg_path, filename):
        if cfg_path.startswith(_SCHEME):
            return str(find_config(cfg_path)), None
        path, scope = resolve_in_package(cfg_path) if '::' in cfg_path else resolve(cfg_path, filename)
        past = {**_history('renamed'), **_history('removed')}
        return (str(find_config(path)) if Path(path).stem in past and not Path(path).is_file() else path), scope

    config_type._get_cfg_path = staticmethod(get_cfg_path)
