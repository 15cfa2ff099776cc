"""Memory of this machine, before much is taken."""

import re
from pathlib import Path

from mmvitscale.errors import InputError

# Bytes that a byte of text takes once it is read as numbers, names and lists.
_GROWTH = 8
_SMALL = 2**27  # bytes that are no danger


def available_memory() -> int | None:
    """Bytes that this process can still take, by the machine, its control group and its own limits; None where nobody says."""
    found = _left_of_limits()
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith('MemAvailable:')]
        limit = Path('/sys/fs/cgroup/memory.max').read_text().strip()
        if limit.isdigit():
            found.append(int(limit) - int(Path('/sys/fs/cgroup/memory.current').read_text()))
    except (OSError, ValueError):
        pass
    return min(found, default=None)


def _left_of_limits() -> list[int]:
    """Of the limits of this process (ulimit), what is left."""
    try:
        import resource

        status = Path('/proc/self/status').read_text()
    except (ImportError, OSError):  # Windows, macOS
        return []
    found = []
    for limit, taken in ((resource.RLIMIT_AS, 'VmSize'), (resource.RLIMIT_DATA, 'VmData')):
        most = resource.getrlimit(limit)[0]
        used = re.search(rf'^{taken}:\s+(\d+) kB', status, re.M)
        if most != resource.RLIM_INFINITY and used:
            found.append(most - 1024 * int(used[1]))
    return found


def check_memory_for(path: Path) -> None:
    """Raise InputError for a text file that would not fit into the memory once it is read."""
    size = path.stat().st_size if path.is_file() else 0
    free = available_memory() if size > _SMALL else None
    if free is not None and _GROWTH * size > free:
        raise InputError(
            f'{path} has {size / 1e9:.1f} GB and takes about {_GROWTH * size / 1e9:.0f} GB of memory once it is read, but '
            f'{free / 1e9:.1f} GB are free; split it, or read it on a machine with more'
        )
