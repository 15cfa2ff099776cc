"""Checkpoint files and URLs: reading without running code from them, writing atomically."""

import errno
import hashlib
import os
import pickle
import re
import urllib.error
import urllib.request
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import barrier
from mmengine.logging import print_log
from mmengine.logging.history_buffer import HistoryBuffer

from mmvitscale.checkpoints.names import is_url
from mmvitscale.errors import InputError
from mmvitscale.utils.atomic_write import write_atomically
from mmvitscale.utils.processes import is_first_on_machine

try:
    from numpy._core import multiarray
except ImportError:  # NumPy before 1.26
    from numpy.core import multiarray

_TIMEOUT = 30  # seconds without a byte


def _statistic_of_history(owner: Any, name: str) -> Any:
    """All that a checkpoint may call ``getattr`` for: MMEngine's HistoryBuffer pickles its statistics that way."""
    if owner is not HistoryBuffer or name not in ('mean', 'max', 'min', 'current', 'statistics'):
        raise UnpicklingError(f'Unsupported global: getattr({owner!r}, {name!r})')
    return getattr(owner, name)


# What checkpoints hold beside tensors and plain containers: MMEngine's training statistics, as NumPy arrays, and the
# settings of published ones (yacs' CfgNode, argparse's Namespace), which become plain data.
_SAFE_TYPES = [
    HistoryBuffer,
    (_statistic_of_history, 'builtins.getattr'),
    np.ndarray,
    np.dtype,
    multiarray._reconstruct,
    multiarray.scalar,
    (OrderedDict, 'yacs.config.CfgNode'),
    (OrderedDict, 'argparse.Namespace'),
    *{type(np.dtype(name)) for name in ('float64', 'float32', 'int64', 'int32', 'uint32', 'uint8', 'bool')},
]

# Bytes of content that a byte of a file may promise: weights that are tied stand there once and count twice or more.
_PROMISE = 8
_SMALL = 2**26


def read_checkpoint(source: str | Path, mapped: bool = False) -> dict[str, Any]:
    """Path or http(s) URL of a .pth, .bin or .safetensors file -> the dict in it, in the main memory. Nothing in the file is
    executed.

    A URL is downloaded once, into the ``checkpoints`` folder of ``torch.hub.get_dir()``.

    Args:
        source: path or URL.
        mapped: weights stay on the disk until they are used, for who looks at the rest.

    Raises:
        InputError: for a file that is missing or out of reach, is no checkpoint, is cut short, would run code or does
            not fit into the memory.
    """
    scheme = re.match(r'(\w{2,})://', str(source))
    if scheme and scheme[1] not in ('http', 'https', 'file'):
        raise InputError(
            f'checkpoint {source} begins with {scheme[0]}, but a path or an http(s) URL is expected; '
            'download the file and give its path'
        )
    path = fetch(str(source)) if is_url(source) else Path(str(source).removeprefix('file://')).expanduser()
    if path.is_dir():
        raise InputError(
            f'checkpoint {source} is a folder; if it is a sharded checkpoint, make one file of them '
            f'with: python tools/convert_checkpoint.py {source} DST.pth'
        )
    if not path.is_file():
        raise InputError(f'checkpoint {source} is not there; check the path')
    try:
        if path.suffix == '.safetensors':
            from safetensors.torch import load_file

            return load_file(path, device='cpu')
        _check_promise(_bytes_in_archive(path), path)
        with torch.serialization.safe_globals(_SAFE_TYPES):
            mapped = mapped and zipfile.is_zipfile(path)  # those of PyTorch before 1.6 are none
            checkpoint = torch.load(path, map_location='cpu', weights_only=True, mmap=mapped)
    except InputError:
        raise
    except ImportError as error:
        raise InputError(f'{source} needs the package safetensors; install it: pip install safetensors') from error
    except Exception as error:  # whatever a damaged file makes the readers raise
        if _is_want_of_memory(error):
            advice = (
                'it is damaged, or made to fill the memory'
                if path.stat().st_size < _SMALL
                else 'free some, or read it on a machine with more'
            )
            raise InputError(
                f'checkpoint {source} ({path.stat().st_size / 1e6:.1f} MB) does not fit into the free memory; {advice}'
            ) from error
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE):
            raise InputError(f'checkpoint {source} cannot be read ({error.strerror}); check the file and its rights') from error
        if isinstance(error, UnpicklingError) and 'unsupported global' in str(error).lower():
            raise InputError(
                f'checkpoint {source} holds Python objects whose loading would run code, so it was not '
                'loaded; save it again with tensors, numbers and strings only'
            ) from error
        raise InputError(f'{source} is no PyTorch checkpoint or is damaged; download or save it again') from error
    if not isinstance(checkpoint, dict):
        raise InputError(f'{source} holds a {type(checkpoint).__name__}, but a checkpoint is a dict of weights')
    _check_promise(_bytes_of_tensors(checkpoint), path)
    return checkpoint


def _check_promise(content: int, path: Path) -> None:
    """Raise InputError for a file that would become far more in the memory than it is."""
    size = path.stat().st_size
    if content > max(_SMALL, _PROMISE * size):
        raise InputError(
            f'{path} has {size / 1e6:.1f} MB and would take {content / 1e6:.0f} MB of memory, so it was not '
            'read; it is damaged, or made to fill the memory'
        )


def _bytes_in_archive(path: Path) -> int:
    if not zipfile.is_zipfile(path):
        return 0
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def _bytes_of_tensors(content: Any) -> int:
    """As they look: a single number can be expanded to any shape."""
    seen: set[int] = set()
    waiting: list[Any] = [content]
    total = 0
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            total += item.numel() * item.element_size()
        elif isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, (list, tuple, set)):
            waiting += item
    return total


def _bytes_of(text: str, encoding: str) -> bytes:
    """How older protocols of pickle write bytes."""
    if encoding != 'latin1':
        raise UnpicklingError(f'unsupported global _codecs.encode of {encoding!r}')
    return text.encode('latin1')


class _DataUnpickler(pickle.Unpickler):
    """Reads plain containers, NumPy's arrays and PyTorch's tensors."""

    _KNOWN = {
        ('collections', 'OrderedDict'),
        ('numpy', 'ndarray'),
        ('numpy', 'dtype'),
        ('torch._utils', '_rebuild_tensor_v2'),
        ('torch.storage', '_load_from_bytes'),
        ('builtins', 'set'),
        ('builtins', 'complex'),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ('_codecs', 'encode'):
            return _bytes_of
        inside_numpy = module in ('numpy.core.multiarray', 'numpy._core.multiarray') and name in ('_reconstruct', 'scalar')
        if (module, name) in self._KNOWN or inside_numpy:
            return super().find_class(module, name)
        raise UnpicklingError(f'unsupported global {module}.{name}')


@contextmanager
def reading_data_only() -> Iterator[None]:
    """Within it, nothing in this process that unpickles runs code, whoever reads: PyTorch, or MMEngine for ``init_cfg``,
    annotations or results. Libraries that request more are refused. For programs of ours alone: it holds for the whole
    process."""
    from mmengine.fileio.handlers import PickleHandler, file_handlers

    class Handler(PickleHandler):
        def load_from_fileobj(self, file: Any, **options: Any) -> Any:
            return _DataUnpickler(file).load()

    names = ('TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD')
    before = {name: os.environ.pop(name, None) for name in names}
    handlers = {name: file_handlers[name] for name in ('pkl', 'pickle')}
    os.environ[names[0]] = '1'
    file_handlers.update(dict.fromkeys(handlers, Handler()))
    try:
        with torch.serialization.safe_globals(_SAFE_TYPES):
            yield
    finally:
        file_handlers.update(handlers)
        for name in names:
            os.environ.pop(name, None)
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _is_want_of_memory(error: Exception) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or 'allocate memory' in str(error).lower()


def fetch(url: str) -> Path:
    """URL -> path of its copy on this machine, downloaded by one process of each machine and only if it is not there yet.

    Where the file's name contains a checksum (``..._20220803-e318968f.pth``, ``swin_v2_t-b137f0e2.pth``: the first digits of
    its SHA-256, the custom of PyTorch and OpenMMLab), or the URL ends in ``#sha256=...``, it is checked.

    Raises:
        InputError: if the file cannot be had, or is another than the one its checksum promises.
    """
    # Hubs give every model's file the same name, so the name alone would mix them up.
    name = f'{hashlib.sha256(url.encode()).hexdigest()[:12]}-{Path(urlparse(url).path).name}'
    path = Path(torch.hub.get_dir(), 'checkpoints', name)
    error = None
    if is_first_on_machine() and not path.is_file():
        print_log(f'Downloading {url} to {path}', 'current')
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
                write_atomically(path, lambda file: _copy(response, file, url))
        except (urllib.error.URLError, OSError, InputError) as failure:
            error = failure
    barrier()
    if isinstance(error, InputError):
        raise error
    if not path.is_file():
        reason = getattr(error, 'reason', error) or 'the first process of this machine says why'
        raise InputError(
            f'checkpoint {url} cannot be reached ({reason}); download it elsewhere and put it '
            f'there as {path}, or name the file with --cfg-options model.backbone.init_cfg.checkpoint=FILE; '
            'to train from scratch: --cfg-options model.backbone.init_cfg=None'
        ) from error
    return path


def expected_checksum(url: str) -> str | None:
    """The first digits of the SHA-256 of the file behind a URL, in lower case, or None where nothing contains them."""
    parts = urlparse(url)
    match = re.fullmatch(r'sha256=([0-9a-fA-F]{8,64})', parts.fragment)
    if match:
        return match[1].lower()
    match = re.search(r'(_20\d{6})?-([0-9a-f]{8,64})\.(?:pth|pt|bin|safetensors)$', parts.path)
    if match is None:
        return None
    # Digits alone may be a date or a number of iterations, but for OpenMMLab's behind a date.
    return match[2] if match[1] or not match[2].isdigit() else None


def _copy(response: Any, file: Any, url: str) -> None:
    """Copy with a line of progress for each tenth. Raises OSError if the connection ends early, InputError if another file
    comes than the one the URL promises."""
    total, done, shown = int(response.headers.get('Content-Length') or 0), 0, 0
    checksum, expected = hashlib.sha256(), expected_checksum(url)
    while chunk := response.read(1 << 20):
        file.write(chunk)
        checksum.update(chunk)
        done += len(chunk)
        if total and 10 * done // total > shown:
            shown = 10 * done // total
            print_log(f'  {10 * shown}% of {total / 1e6:.0f} MB', 'current')
    if total and done != total:
        raise OSError(f'the connection ended after {done} of {total} bytes')
    if expected and not checksum.hexdigest().startswith(expected):
        raise InputError(
            f'{url} gave another file than it promises: its SHA-256 begins with '
            f'{checksum.hexdigest()[: len(expected)]}, not {expected}; check the URL, and the connection'
        )


def write_checkpoint(path: str | Path, checkpoint: dict[str, Any]) -> None:
    """Write ``checkpoint`` to a .pth file, or its ``state_dict`` to a .safetensors file; atomically."""
    path = Path(path)
    if path.suffix == '.safetensors':
        from safetensors.torch import save

        weights = {key: value.contiguous() for key, value in checkpoint['state_dict'].items()}
        write_atomically(path, lambda file: file.write(save(weights, metadata={'format': 'pt'})))
    else:
        write_atomically(path, lambda file: torch.save(checkpoint, file))
