"""Which kernel of window attention was the fastest, in a file of the user's cache: what ``tuning.py`` has measured once holds
for later runs, and for all processes of a machine."""

import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmvitscale.utils.atomic_write import write_bytes_atomically
from mmvitscale.utils.json_text import json_text

_FORMAT = 1
# Seconds that a process waits for another one that measures.
_PATIENCE = 120.0


@dataclass(frozen=True)
class Choice:
    """A kernel for windows of one size of map.

    tokens: of all windows together. shapes: how many shapes the windows have, 1 to 9. kernel: a key of KERNELS. milliseconds:
    of each kernel that was measured.
    """

    tokens: int
    shapes: int
    kernel: str
    milliseconds: Mapping[str, float]


# What else a choice depends on, in words (device, versions, precision, windows, heads) -> the choices for sizes of map.
Choices = dict[str, list[Choice]]


def choices_file() -> Path | None:
    """``mmvitscale/attention.json`` in the user's cache (XDG_CACHE_HOME, or ``~/.cache``); None where nobody has a home."""
    try:
        return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'mmvitscale' / 'attention.json'
    except RuntimeError:
        return None


def read_choices(path: Path | None) -> Choices:
    """What a file holds; nothing where there is none, or one that was not written by ``write_choices``."""
    try:
        content = json.loads(path.read_text()) if path else {}
        if content.get('format') != _FORMAT:
            return {}
        return {conditions: [_read(entry) for entry in entries] for conditions, entries in content['choices'].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _read(entry: Any) -> Choice:
    """Raises ValueError, TypeError or AttributeError for what is no choice."""
    choice = Choice(**entry)
    numbers = [choice.tokens, choice.shapes, *choice.milliseconds.values()]
    if not isinstance(choice.kernel, str) or not all(isinstance(n, (int, float)) and 0 < n < math.inf for n in numbers):
        raise ValueError(entry)
    return choice


def write_choices(path: Path, choices: Choices) -> None:
    """Replace the file, atomically. Raises InputError if it cannot be written."""
    content = {conditions: [asdict(choice) for choice in entries] for conditions, entries in choices.items()}
    write_bytes_atomically(path, json_text({'format': _FORMAT, 'choices': content}).encode())


def nearest(choices: Iterable[Choice], tokens: int, shapes: int) -> Choice:
    """The choice for the size of map that is the nearest by the ratio of tokens, and then by the number of shapes."""
    return min(choices, key=lambda choice: (abs(math.log(choice.tokens / tokens)), abs(choice.shapes - shapes)))


@contextmanager
def locked(path: Path | None) -> Iterator[None]:
    """Within it no other process of this machine measures for the same file. One that waits in vain, or on a file system or
    system (Windows) without locks, goes on nevertheless: what is written last holds then."""
    handle = None
    if path is not None and find_spec('fcntl'):
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path.with_suffix('.lock'), os.O_RDWR | os.O_CREAT, 0o600)
            _wait_for(handle, time.monotonic() + _PATIENCE)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)  # which unlocks it


def _wait_for(handle: int, until: float) -> None:
    """Raises OSError where there are no locks."""
    fcntl: Any = import_module('fcntl')
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                return
            time.sleep(0.05)
