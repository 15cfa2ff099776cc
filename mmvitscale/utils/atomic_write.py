"""Files that are complete or not there (atomic writes): written beside their place, and renamed into it."""

import errno
import os
import re
import secrets
import socket
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from mmvitscale.errors import InputError

_MARK = '.part'
_DAY = 24 * 60 * 60
# Bytes: of names that fit into every file system, and of suffixes that a format may have.
_SHORT, _LONGEST_SUFFIX = 100, 30
# For a checkpoint of a training.
SAVING_FAILED = 'the checkpoints before it are whole: free some space, or correct the rights, and go on with --resume'
# What says that a file cannot be written; an error of a connection that is read from, say, is another thing.
_UNWRITABLE = {
    getattr(errno, name)
    for name in ('ENOSPC', 'EDQUOT', 'EFBIG', 'EROFS', 'EACCES', 'EPERM', 'EIO', 'ENOENT', 'ENOTDIR', 'EISDIR', 'ENAMETOOLONG')
}


class atomic_write:
    """``with atomic_write(path) as part``: what is written to ``part`` becomes ``path`` at the end, and is gone after an
    error. What stood at ``path`` before stays until then, whatever ends the process.

    Args:
        path: its folder is made if need be.
        durable: have the disk hold it before it takes its place, so that a machine that loses its power has either file.
        advice: what to do if it cannot be written, for the message.

    Raises:
        InputError: if the file cannot be written.
    """

    def __init__(self, path: str | Path, durable: bool = False, advice: str = 'free some space or give another folder'):
        self.path = Path(path)
        # Two that write the same file, on two machines even, do not meet. Writers take the format from the suffix.
        self.part = self.path.with_name(_temporary_name(self.path))
        self.durable, self.advice = durable, advice

    def __enter__(self) -> Path:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._sentence(error) from error
        return self.part

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                if self.durable:
                    _to_disk(self.part)
                os.replace(self.part, self.path)
                if self.durable:
                    _to_disk(self.path.parent)
        except OSError as failure:
            self._forget()
            raise self._sentence(failure) from failure
        if kind is not None:
            self._forget()
            cause = _failure_to_write(error, self.part)
            if cause is not None:
                raise self._sentence(cause) from error

    def _forget(self) -> None:
        with suppress(OSError):  # where it cannot be written it cannot be removed
            self.part.unlink(missing_ok=True)

    def _sentence(self, error: OSError) -> InputError:
        return InputError(f'cannot write {self.path} ({error.strerror or error}); {self.advice}')


def _temporary_name(path: Path) -> str:
    """No longer than the file's own name, where that is long: it fits wherever that one does."""
    limit = max(len(os.fsencode(path.name)), _SHORT)
    suffix = path.suffix if len(os.fsencode(path.suffix)) <= _LONGEST_SUFFIX else ''  # 'a.' and a sentence: no format
    end = f'.{owner()}-{secrets.token_hex(4)}{_MARK}{suffix}'
    room = limit - len(os.fsencode(end)) - 1
    # Cut between characters, not within one.
    return '.' + os.fsencode(path.stem)[:room].decode(errors='ignore') + end


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # file systems that cannot do it for folders
        if not path.is_dir():
            raise
    finally:
        os.close(handle)


def _failure_to_write(error: BaseException | None, part: Path) -> OSError | None:
    if isinstance(error, RuntimeError) and 'inline_container' in str(error):
        # PyTorch's writer says that its position is unexpected, and has lost the error of the file.
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    ours = isinstance(error, OSError) and error.errno in _UNWRITABLE and error.filename in (None, str(part))
    return error if ours else None  # type: ignore[return-value]


def owner(process: int | None = None) -> str:
    """This machine and a process of it, this one if none is given: for names of what is there while it runs."""
    return f'{zlib.crc32(socket.gethostname().encode()):08x}-{process or os.getpid()}'


def is_abandoned(path: Path) -> bool:
    """Whether what has ``owner`` in its name belongs to a process that has ended; of other machines, if it is a day old."""
    match = re.search(r'([0-9a-f]{8})-(\d+)-', path.name)
    if match and f'{match[1]}-{match[2]}' == owner(int(match[2])):
        try:
            os.kill(int(match[2]), 0)
        except ProcessLookupError:
            return True
        except OSError:  # somebody else's
            pass
    try:
        return time.time() - path.stat().st_mtime > _DAY
    except OSError:  # it is gone
        return False


def remove_partial_files(folder: str | Path, suffix: str) -> None:
    """Remove what processes that were killed left of files with this suffix, and nothing that another one is writing."""
    for path in Path(folder).glob(f'.*{_MARK}{suffix}'):
        if is_abandoned(path):
            path.unlink(missing_ok=True)


def check_writable(folder: str | Path) -> Path:
    """Make the folder if need be. Raises InputError unless files can be written into it."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f'cannot write into {folder} ({error.strerror}); give a folder that can be written') from error
    return Path(folder)


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write(file)`` fill a file that takes its place at ``path`` only when it is complete. Raises InputError if it cannot
    be written."""
    with atomic_write(path, durable=True) as part, open(part, 'wb') as file:
        write(file)


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """``content`` as the file ``path``, complete or not there. Raises InputError if it cannot be written."""
    write_atomically(path, lambda file: file.write(content))
