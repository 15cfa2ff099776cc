"""The config inside a checkpoint: written as plain data, read as a stranger's.

``meta[META_KEY]`` holds the training's config in dicts, lists, strings and numbers. Of it only what predicting and testing
require is read, key by key; nothing in it is run or imported, and types are those of ``registered_types.py`` alone.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from mmvitscale.checkpoints.io import read_checkpoint
from mmvitscale.checkpoints.metadata import classes_in
from mmvitscale.checkpoints.window_policy import test_windows_of
from mmvitscale.config.loading import apply_options
from mmvitscale.config.registered_types import SCOPES, is_allowed, names, registered_name
from mmvitscale.config.runtime import check_packages
from mmvitscale.config.view import ConfigView
from mmvitscale.errors import InputError

# In a checkpoint's ``meta``, beside MMEngine's ``cfg``, which is Python; ``config`` is the same of OpenMMLab before MMEngine.
META_KEY = 'mmvitscale_config'
_VERSION = 1

# What reading takes; of it a checkpoint without all that its config has would predict differently.
_NEEDED = ('model', 'data_preprocessor', 'predict_pipeline', 'test_dataloader', 'test_evaluator', 'tta_model', 'tta_pipeline')

# Limits of what is read, each far above what a config has. Shared references count as often as they stand there.
_DEPTH, _ITEMS, _CHARACTERS = 40, 200_000, 5_000_000
_INTEGER = 2**63

# Keys that say where further weights or files are, how to reach them, or what training alone does.
_DROPPED = names("""
    augments backend_args batch_augments checkpoint checkpoint_path collect_dir download file_client_args format_only
    init_cfg keep_results lazy_init out_dir out_file_path outfile_prefix output_dir pretrained proposal_file teacher_ckpt
    teacher_config
""")
# What begins or ends like this in a model is a file, a folder or an address.
_PLACE = re.compile(r'[/\\~]|:|\.(?:py|pkl|pickle|pth|pt|bin|ckpt|safetensors|np[yz]|json|ya?ml|txt|csv)$', re.IGNORECASE)
# What test data are not read from: addresses, and files that run code when they are read.
_REFUSED_DATA = re.compile(r'\w{2,}:|\.(?:py|pkl|pickle|np[yz]|ya?ml|pth|pt)$', re.IGNORECASE)


class _NotPlainError(ValueError):
    """A value that no plain data stand for; the message names it and its place."""


def embed_config(cfg: Config) -> dict[str, Any]:
    """A config -> what a checkpoint's ``meta[META_KEY]`` holds of it. Classes are written as the names that they are registered
    under, NumPy's numbers as Python's, files with names of classes as the names. A part that predicting does not need and that
    is no plain data is left out.

    Raises:
        ValueError: for another part that is no plain data; it names the place.
    """
    config: dict[str, Any] = {}
    for key, value in cfg.items():
        try:
            config[key] = _plain(value, key)
        except _NotPlainError:
            if key in _NEEDED:
                raise
    config['default_scope'] = ConfigView(cfg).scope
    with suppress(InputError):  # of a value that testing reports
        config['test_windows'] = test_windows_of(cfg)
    try:
        _Copy('').of(config)
    except InputError as error:  # which reading would raise
        raise _NotPlainError('it is too large, or has numbers of more than 64 bits') from error
    return dict(version=_VERSION, config=config)


def _plain(value: Any, place: str, key: str = '') -> Any:
    if place.count('.') > _DEPTH:
        raise _NotPlainError(f'{place[:60]}... is nested deeper than {_DEPTH} times')
    if isinstance(value, Mapping):
        wrong = [name for name in value if not isinstance(name, str)]
        if wrong:
            raise _NotPlainError(f'{place} has the key {wrong[0]!r}, which is no text')
        return {str(name): _plain(item, f'{place}.{name}', name) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return (tuple if isinstance(value, tuple) else list)(_plain(item, f'{place}.{i}') for i, item in enumerate(value))
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist(), place)
    if isinstance(value, Path):
        return str(value)
    if key == 'classes' and type(value) is str and Path(value).is_file():
        return Path(value).expanduser().read_text(encoding='utf-8').splitlines()
    if value is None or type(value) in (bool, int, float, str):
        return value
    name = registered_name(value) if callable(value) else None
    if name is None:
        raise _NotPlainError(f'{place} is a {type(value).__name__}, which is no plain data')
    return name


def load_embedded_config(
    checkpoint: str, options: dict | None = None, prepare: Callable[[Mapping[str, Any]], None] | None = None
) -> Config:
    """Path or URL of a checkpoint -> the config in it, ready to predict and to test, with ``key=value`` overrides. Its
    ``filename`` is the checkpoint's. No file of the training's machine is needed, but for the test data.

    Args:
        checkpoint: path or URL.
        options: overrides.
        prepare: is given the config as plain data, before packages are imported to look up its types.

    Raises:
        InputError: for a file without a config, and for one whose config is no plain data or names what a stranger's may not.
    """
    source = str(checkpoint)
    if source.endswith('.safetensors'):
        raise InputError(f'{source} holds weights alone and no config; give the config before it: CONFIG {source}')
    content = read_checkpoint(source, mapped=True)
    cfg = _Reader(source, classes_in(content), prepare).config(_entry_of(content, source))
    apply_options(cfg, options, f'the config in {source}')
    cfg.test_windows = test_windows_of(cfg, options)
    return cfg


def _entry_of(content: dict, source: str) -> Any:
    """What is under META_KEY, as it was saved. Raises InputError where there is nothing."""
    meta = content.get('meta')
    meta = meta if isinstance(meta, dict) else {}
    advice = f'give the config before it: CONFIG {source}'
    if META_KEY not in meta:
        older = any(isinstance(meta.get(key), str) for key in ('cfg', 'config'))
        raise InputError(
            f'{source} holds its config only as Python code, as other programs and mmvitscale before 0.4 save it, which is '
            f'not run; {advice}'
            if older
            else f'{source} holds no config; {advice}'
        )
    entry = meta[META_KEY]
    if not isinstance(entry, dict) or entry.get('version') != _VERSION or not isinstance(entry.get('config'), dict):
        raise InputError(f'the config in {source} is of another version of mmvitscale, or damaged; {advice}')
    return entry['config']


class _Copy:
    """Copies plain data. Raises InputError for what is none, is nested too deep or too large."""

    def __init__(self, source: str):
        self.source, self.items, self.characters = source, 0, 0

    def of(self, value: Any, depth: int = 0) -> Any:
        """value: from a file, with circles perhaps."""
        self.items += 1
        kind = type(value)
        if kind is str:
            self.characters += len(value)
        if self.items > _ITEMS or self.characters > _CHARACTERS or depth > _DEPTH:
            self._refuse(f'is larger than {_ITEMS} values, or nested deeper than {_DEPTH} times, which no config is')
        if value is None or kind in (bool, float, str) or kind is int and -_INTEGER <= value < _INTEGER:
            return value
        if kind in (dict, OrderedDict):
            if not all(type(key) is str for key in value):
                self._refuse('has a key that is no text')
            self.characters += sum(map(len, value))
            return {key: self.of(item, depth + 1) for key, item in value.items()}
        if kind in (list, tuple):
            return kind(self.of(item, depth + 1) for item in value)
        return self._refuse(f'holds a {kind.__name__}, which is no plain data')

    def _refuse(self, what: str) -> Any:
        raise InputError(f'the config in {self.source} {what}, so it is not used; {_advice(self.source)}')


def _advice(source: str) -> str:
    return f'give a config that you trust before the checkpoint: CONFIG {source}'


class _Reader:
    """Takes from plain data what predicting and testing require, each part by the rules of its place.

    Args:
        source: of the checkpoint, for messages.
        classes: that the checkpoint names, in place of a file that its config names.
        prepare: see ``load_embedded_config``.
    """

    def __init__(self, source: str, classes: list[str], prepare: Callable[[Mapping[str, Any]], None] | None = None):
        self.source, self.classes, self.scope, self.prepare = source, classes, 'mmengine', prepare

    def config(self, entry: Any) -> Config:
        """The entry -> the config. Raises InputError."""
        given = _Copy(self.source).of(entry)
        if self.prepare is not None:
            self.prepare(given)
        self.scope = given.get('default_scope') or 'mmengine'
        if self.scope not in SCOPES:
            self._refuse(f'has the default_scope {_shown(self.scope)}, but it is one of {", ".join(SCOPES)}')
        found: dict[str, Any] = dict(default_scope=self.scope, runner_type='mmvitscale.Runner')
        check_packages(self._as_config(found))
        try:
            found.update(self._parts(given))
        except ImportError as error:
            raise InputError(
                f'the config in {self.source} needs a package that is not installed ({error}); install it'
            ) from error
        cfg = self._as_config(found)
        roots = {str(one.data_root) for one in ConfigView(cfg).datasets('test') if one.get('data_root')}
        if not cfg.get('data_root') and len(roots) == 1:  # what an override of data_root moves
            cfg.data_root = roots.pop()
        return cfg

    def _as_config(self, content: dict) -> Config:
        return Config(content, cfg_text=f'# the config in {self.source}\n', filename=self.source)

    def _parts(self, given: dict) -> dict[str, Any]:
        """By the keys that are read; all others are left out."""
        found: dict[str, Any] = {}
        readers = dict(
            model=self._model,
            data_preprocessor=self._model,
            tta_model=self._model,
            predict_pipeline=self._pipeline,
            tta_pipeline=self._pipeline,
            test_dataloader=self._loader,
            test_evaluator=self._evaluator,
            data_root=self._data,
        )
        for key, read in readers.items():
            if given.get(key):
                found[key] = read(given[key], key)
        if not isinstance(found.get('model'), dict):
            self._refuse('has no model, a dict')
        if 'test_dataloader' in found:
            found['test_cfg'] = dict(type='TestLoop')
            if isinstance(given.get('test_cfg'), dict) and type(given['test_cfg'].get('fp16')) is bool:
                found['test_cfg']['fp16'] = given['test_cfg']['fp16']
        if given.get('test_windows') in ('config', 'checkpoint'):
            found['test_windows'] = given['test_windows']
        return found

    def _refuse(self, what: str) -> Any:
        raise InputError(f'the config in {self.source} {what}; {_advice(self.source)}')

    def _walk(self, value: Any, place: str, kind: str, places: re.Pattern, key: str = '') -> Any:
        """A copy of nested values without what is left out. Raises InputError for a type that ``kind`` may not be, and for text
        that ``places`` matches."""
        if isinstance(value, dict):
            if value.get('_scope_', self.scope) != self.scope:
                with self._in_scope(value['_scope_'], place):
                    return self._walk(value, place, kind, places, key)
            if 'type' in value:
                self._check_type(value['type'], place, kind, key)
            kept = {name: item for name, item in value.items() if name not in _DROPPED}
            if isinstance(kept.get('class_weight'), str):
                del kept['class_weight']  # a file, of the loss
            return {
                name: item if name == 'type' else self._walk(item, f'{place}.{name}', kind, places, name)
                for name, item in kept.items()
            }
        if isinstance(value, (list, tuple)):
            return type(value)(self._walk(item, f'{place}.{i}', kind, places, key) for i, item in enumerate(value))
        if isinstance(value, str) and places.search(value):
            self._refuse(f'names the file or address {_shown(value)} in {place[:80]}, and is not to read or to fetch any')
        return value

    @contextmanager
    def _in_scope(self, scope: Any, place: str) -> Iterator[None]:
        """As MMEngine builds what has a ``_scope_``. Raises InputError for one whose package is not OpenMMLab's."""
        if scope not in SCOPES:
            self._refuse(f'has the _scope_ {_shown(scope)} in {place[:80]}, but it is one of {", ".join(SCOPES)}')
        before, self.scope = self.scope, scope
        try:
            yield
        finally:
            self.scope = before

    def _check_type(self, name: Any, place: str, kind: str, key: str) -> None:
        if not isinstance(name, str) or not is_allowed(name, kind, key, self.scope):
            self._refuse(
                f'has the type {_shown(name)} in {place[:80]}, which is no {kind} of MMEngine, mmdet, mmseg, mmpretrain or '
                'mmvitscale that a config inside a checkpoint may have'
            )

    def _model(self, value: Any, place: str) -> Any:
        return self._walk(self._dict(value, place), place, 'model', _PLACE)

    def _pipeline(self, value: Any, place: str) -> Any:
        if not isinstance(value, (list, tuple)) or not all(isinstance(step, dict) and 'type' in step for step in value):
            self._refuse(f'has a {place} that is no list of dicts with a type')
        return self._walk(list(value), place, 'transform', _PLACE)

    def _loader(self, value: Any, place: str) -> dict:
        loader = self._dict(value, place)
        numbers = {name: loader.get(name, default) for name, default in (('batch_size', 1), ('num_workers', 0))}
        for name, number in numbers.items():
            if type(number) is not int:
                self._refuse(f'has {name} {_shown(number)} in {place}, which is no whole number')
        kept = bool(numbers['num_workers']) and loader.get('persistent_workers') is True
        dataset = self._dataset(loader.get('dataset'), f'{place}.dataset')
        sampler = dict(type='DefaultSampler', shuffle=False)
        return dict(**numbers, persistent_workers=kept, drop_last=False, sampler=sampler, dataset=dataset)

    def _dataset(self, value: Any, place: str) -> dict:
        """Its pipeline, and those of the data sets inside, are pipelines; the rest are names, numbers and paths."""
        given = dict(self._dict(value, place))
        if given.get('_scope_', self.scope) != self.scope:
            with self._in_scope(given['_scope_'], place):
                return self._dataset(given, place)
        parts = {key: given.pop(key) for key in ('dataset', 'datasets', 'metainfo', 'pipeline') if key in given}
        if isinstance(given.get('classes'), str):
            given['classes'] = self._names(given['classes'], f'{place}.classes')
        found = self._walk({'type': None, **given}, place, 'data set', _REFUSED_DATA)
        if parts.get('pipeline'):
            found['pipeline'] = self._pipeline(parts['pipeline'], f'{place}.pipeline')
        if parts.get('metainfo'):
            found['metainfo'] = self._metainfo(parts['metainfo'], f'{place}.metainfo')
        if parts.get('dataset'):
            found['dataset'] = self._dataset(parts['dataset'], f'{place}.dataset')
        if parts.get('datasets'):
            inner = parts['datasets'] if isinstance(parts['datasets'], (list, tuple)) else [None]
            found['datasets'] = [self._dataset(one, f'{place}.datasets.{i}') for i, one in enumerate(inner)]
        return found

    def _metainfo(self, value: Any, place: str) -> dict:
        """Text would be read as a file, by MMEngine."""
        given = self._dict(value, place)
        if isinstance(given.get('classes'), str):
            given = {**given, 'classes': self._names(given['classes'], f'{place}.classes')}
        return {key: item for key, item in given.items() if not isinstance(item, str)}

    def _names(self, file: str, place: str) -> list[str]:
        """What a checkpoint itself says of its classes, where the config names a file with them."""
        return self.classes or self._refuse(f'names the file {_shown(file)} in {place}, and is not to read any')

    def _evaluator(self, value: Any, place: str) -> Any:
        metrics = value if isinstance(value, (list, tuple)) else [value]
        found = [
            self._walk({'type': None, **self._dict(one, f'{place}.{i}')}, f'{place}.{i}', 'metric', _REFUSED_DATA)
            for i, one in enumerate(metrics)
        ]
        return found if isinstance(value, (list, tuple)) else found[0]

    def _data(self, value: Any, place: str) -> Any:
        return self._walk(value if isinstance(value, str) else '', place, 'data set', _REFUSED_DATA)

    def _dict(self, value: Any, place: str) -> dict:
        return value if isinstance(value, dict) else self._refuse(f'has a {place} that is no dict')


def _shown(value: Any) -> str:
    """A value of a stranger's in a message of one line."""
    if isinstance(value, str):
        return repr(value if len(value) <= 80 else f'{value[:40]}...{value[-35:]}')
    return repr(type(value).__name__ if isinstance(value, (dict, list, tuple)) else value)
