"""What the results of experiments depend on, recorded beside them: what is repeated goes on, and what has changed is not taken
for what was asked for."""

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmvitscale.errors import InputError, some_of
from mmvitscale.utils.atomic_write import atomic_write
from mmvitscale.utils.json_text import json_text, plain

_SETTINGS = 'settings.json'
_DATA = 'content of the data set'
_CHECKPOINT = 'content of the checkpoint'
_HASHED = 'sha256:'


def settings_of(cfg: Config, checkpoint: Path | None = None) -> dict[str, Any]:
    """Every option of a config by its full name, with the content of the files that it names, of its data set (names and sizes
    of the files below ``data_root``) and of a checkpoint."""
    found = {name: _content(value) for name, value in _options(plain(cfg.to_dict()))}
    root = cfg.get('data_root')
    found[_DATA] = _listing(Path(root)) if isinstance(root, str) and Path(root).is_dir() else None
    found[_CHECKPOINT] = _content(str(checkpoint)) if checkpoint else None
    return found


def check_settings(work_dir: Path, settings: dict[str, Any]) -> None:
    """Record in a new work folder what its training depends on. Raises InputError for a folder with a training of other
    settings, or with one that has no record."""
    path = work_dir / _SETTINGS
    advice = f'give another --out, or remove {work_dir} to train it again'
    saved = any((work_dir / name).exists() for name in ('done.json', 'last_checkpoint'))
    if saved and not path.is_file():
        raise InputError(f'{work_dir} holds a training whose settings are not recorded ({_SETTINGS}); {advice}')
    begun = saved or any(work_dir.glob('*/vis_data/scalars.json'))
    before = _read(path) if begun and path.is_file() else settings
    changed = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
    if changed:
        what = [
            f'{name} has changed'
            if str(settings.get(name)).startswith(_HASHED)
            else f'{name} was {_short(before.get(name))} and is {_short(settings.get(name))}'
            for name in changed
        ]
        raise InputError(f'{work_dir} holds a training with other settings: {some_of(what)}; {advice}')
    _write(path, settings)


def recorded_metrics(path: Path, settings: dict[str, Any]) -> dict[str, float] | None:
    """The metrics that ``record_metrics`` wrote for the same settings; None where there are none."""
    known = _read(path) if path.is_file() else {}
    if not isinstance(known, dict) or known.get('settings') != _hash(json_text(settings).encode()):
        return None
    return {name: math.nan if value is None else value for name, value in known['metrics'].items()}


def record_metrics(path: Path, settings: dict[str, Any], metrics: dict[str, float]) -> None:
    """Write metrics with what they depend on. Raises InputError if the file cannot be written."""
    _write(path, dict(settings=_hash(json_text(settings).encode()), metrics=metrics))


def _hash(content: bytes) -> str:
    return _HASHED + hashlib.sha256(content).hexdigest()


def _options(value: Any, name: str = '') -> Iterator[tuple[str, Any]]:
    """(name, value) of everything in nested dicts and lists of dicts."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = {str(i): item for i, item in enumerate(value)}
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _options(item, f'{name}.{key}' if name else key)
    else:
        yield name, value


def _content(value: Any) -> Any:
    """Of a file its content, wherever it lies."""
    if isinstance(value, str) and '/' in value and Path(value).is_file():
        digest = hashlib.sha256()
        with open(value, 'rb') as file:
            while part := file.read(2**20):
                digest.update(part)
        return _HASHED + digest.hexdigest()
    return value


def _listing(folder: Path) -> str:
    names = sorted((path.relative_to(folder).as_posix(), path.stat().st_size) for path in folder.rglob('*') if path.is_file())
    return _hash(repr(names).encode())


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else text[:57] + '...'


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f'{path} cannot be read ({error}); remove it, and what lies beside it') from error


def _write(path: Path, content: object) -> None:
    with atomic_write(path) as part:
        part.write_text(json_text(content))
