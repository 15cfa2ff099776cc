"""Memory of this machine, before much is taken."""

from pathlib import Path

from mmvitscale.errors import InputError

# Bytes that a byte of text takes once it is read as numbers, names and lists.
_GROWTH = 8
_SMALL = 2**27  # bytes that are no danger


def available_memory() -> int | None:
    """Bytes that this process can still take, by the machine and by its control group; None where nobody says."""
    found = []
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith('MemAvailable:')]
        limit = Path('/sys/fs/cgroup/memory.max').read_text().strip()
        if limit.isdigit():
            found.append(int(limit) - int(Path('/sys/fs/cgroup/memory.current').read_text()))
    except (OSError, ValueError):
        pass
    return min(found, default=None)


def check_memory_for(path: Path) -> None:
    """Raise InputError for a text file that would not fit into the memory once it is read."""
    size = path.stat().st_size if path.is_file() else 0
    free = available_memory() if size > _SMALL else None
    if free is not None and _GROWTH * size > free:
        raise InputError(
            f'{path} has {size / 1e9:.1f} GB and takes about {_GROWTH * size / 1e9:.0f} GB of memory once it is read, but '
            f'{free / 1e9:.1f} GB are free; split it, or read it on a machine with more'
        )
