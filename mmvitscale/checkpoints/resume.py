"""Which checkpoint an interrupted training goes on from, and whether a file holds what that needs."""

import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmvitscale.checkpoints.io import read_checkpoint
from mmvitscale.errors import InputError, some_of
from mmvitscale.utils.atomic_write import atomic_write

# MMEngine's: in a work folder, the path of the checkpoint that was written last.
_POINTER = 'last_checkpoint'
# What MMEngine calls checkpoints; and not what was published of them: iter_4000-0a1b2c3d.pth.
_PUBLISHED = re.compile(r'\d-[0-9a-f]{8}\.\w+$')
_WITHOUT_NUMBER = (-1, -1)  # kind and number of a checkpoint whose name has none
_TEMPLATES = ('iter_{}.pth', 'epoch_{}.pth')


def write_last_checkpoint(work_dir: str | Path, checkpoint: str) -> None:
    """Write MMEngine's ``last_checkpoint``, atomically. Raises InputError if it cannot be written."""
    with atomic_write(Path(work_dir, _POINTER), durable=True) as part:
        part.write_text(checkpoint)


def latest_complete_checkpoint(
    work_dir: str | Path, log: Callable[[str], None] = lambda line: None, templates: Sequence[str] = ()
) -> Path | None:
    """The newest checkpoint of a training that is whole, None where the folder has none at all. Only what its hook wrote is
    looked at: the best ones, and published ones, hold weights alone.

    Args:
        work_dir: of the training; checkpoints lie in it, or where its ``last_checkpoint`` says.
        log: gets a line for each broken one that was skipped.
        templates: names of checkpoints beside MMEngine's own, ``filename_tmpl`` of a checkpoint hook.

    Raises:
        InputError: if there are some, and all are broken.
    """
    broken: list[str] = []
    for path in _candidates(Path(work_dir), templates):
        if is_complete(path):
            return path
        broken.append(path.name)
        log(f'{path} is corrupt (it was cut short, or the disk has damaged it) and is skipped')
    if broken:
        raise InputError(
            f'none of the checkpoints in {work_dir} is complete ({some_of(broken)}); remove them to start from scratch, or '
            'give another one: --resume CKPT'
        )
    return None


def _candidates(work_dir: Path, templates: Sequence[str]) -> list[Path]:
    """From the newest to the oldest: by their numbers, but those of an earlier, longer training in the same folder last. What
    the folder records as the last one counts, whatever its name is."""
    pointed = _pointed(work_dir)
    patterns = [_pattern(template) for template in dict.fromkeys((*_TEMPLATES, *templates))]
    last = None
    if pointed:
        known = _kind_and_number(pointed.name, patterns)
        numbers = list(re.finditer(r'\d+', pointed.stem))
        if known is None and numbers:  # a name that nobody here gave: its last number
            patterns.append(_pattern(pointed.name[: numbers[-1].start()] + '{}' + pointed.name[numbers[-1].end() :]))
            known = _kind_and_number(pointed.name, patterns)
        last = known[1] if known else None
    found: dict[Path, tuple[int, int]] = {}
    for folder in {work_dir, pointed.parent if pointed else work_dir}:
        for path in folder.iterdir() if folder.is_dir() else ():
            known = _kind_and_number(path.name, patterns)
            if known and path.is_file():
                found[path.resolve()] = known
    for path in (pointed, *(work_dir / template for template in templates if '{' not in template)):
        if path and path.is_file():
            found.setdefault(path.resolve(), _WITHOUT_NUMBER)

    # Iterations and epochs are not compared: first those of the kind that was written last.
    times = {path: path.stat().st_mtime_ns for path in found}
    newest = {kind: max(times[path] for path in found if found[path][0] == kind) for kind, _ in found.values()}
    pointed = pointed.resolve() if pointed else None
    own_kind = found[pointed][0] if pointed in found else None

    def key(path: Path) -> tuple[bool, bool, int, int, int]:
        (kind, number), time = found[path], times[path]
        stale = last is not None and pointed in found and number > last and time < times[pointed]
        return kind == own_kind, not stale, newest[kind], number, time

    return sorted(found, key=key, reverse=True)


def _pattern(template: str) -> re.Pattern[str]:
    """``iter_{}.pth`` -> what recognises such names, its group the number, if the template has one."""
    return re.compile(re.sub(r'\\\{[^{}]*\\\}', r'0*(\\d+)', re.escape(template), count=1))


def _kind_and_number(name: str, patterns: Sequence[re.Pattern[str]]) -> tuple[int, int] | None:
    """Which of the patterns recognises a name, and the number in it."""
    for kind, pattern in enumerate(patterns):
        match = pattern.fullmatch(name)
        if match and pattern.groups:
            return kind, int(match[1])
    return None


def _pointed(work_dir: Path) -> Path | None:
    """The checkpoint that was written last, as far as the folder records it. Raises InputError for one that is elsewhere."""
    try:
        text = (work_dir / _POINTER).read_text().strip()
    except (OSError, ValueError):  # not there, or no text
        return None
    if '://' in text:
        raise InputError(
            f'the last checkpoint of {work_dir} is {text}, which --resume does not look for by itself; copy it '
            'here, and give it: --resume CKPT'
        )
    if not text:
        return None
    try:
        path = Path(text)
        here = work_dir / path.name  # of a folder that was copied or moved, which says where it was
        path.resolve()
        if here.is_file() and not (path.is_file() and path.stat().st_mtime_ns > here.stat().st_mtime_ns):
            path = here
    except (OSError, ValueError):  # no path
        return None
    return None if _PUBLISHED.search(path.name) else path


def is_complete(path: Path) -> bool:
    """Whether all of a file's content is there as it was written, by the checksums in it; by reading it, where it has
    none."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return archive.testzip() is None
        read_checkpoint(path)
    except (InputError, zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError):
        return False
    return True


def check_resumable(content: dict[str, Any], name: str, with_optimizer: bool = True) -> None:
    """Raise InputError unless a checkpoint holds what a training needs to go on. What in it MMEngine would run as a program
    is removed.

    Args:
        content: what ``read_checkpoint`` gave.
        name: of the file, for messages.
        with_optimizer: the optimizer's states are needed, too.
    """
    meta = content.get('meta')
    counted = isinstance(meta, dict) and all(isinstance(meta.get(key), int) and meta[key] >= 0 for key in ('epoch', 'iter'))
    hub = content.get('message_hub')
    optimizer = content.get('optimizer')
    missing = [
        what
        for what, there in (
            ('epoch and iter in its meta', counted),
            ('message_hub', isinstance(hub, dict)),
            ('optimizer', not with_optimizer or isinstance(optimizer, dict)),
        )
        if not there
    ]
    if missing:
        raise InputError(
            f'checkpoint {name} has no {some_of(missing)}, so no training can go on from it; resume from one that '
            'a training has saved, or fine-tune from its weights: --cfg-options load_from=FILE'
        )
    assert isinstance(meta, dict)
    # MMEngine executes a config that it finds there, only to look for a key that old ones had.
    meta.pop('config', None)
