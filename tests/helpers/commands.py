"""Running the project's commands as a user types them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Nothing in the background: the tests are too short to gain from it.
FOREGROUND = [f'{split}_dataloader.{option}' for split in ('train', 'val', 'test')
              for option in ('num_workers=0', 'persistent_workers=False')]


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def path_without_deepspeed():
    """PYTHONPATH for processes that start sooner."""
    return os.pathsep.join(filter(None, (str(ROOT / 'tests/helpers/without_deepspeed'), os.environ.get('PYTHONPATH'))))


def run(*command, expect=0):
    """Run a tool in a process of its own and return it; its exit status is zero if and only if ``expect`` is."""
    environment = {**os.environ, 'OMP_NUM_THREADS': '2', 'PYTHONPATH': path_without_deepspeed()}
    result = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True,
                            env=environment)
    assert (result.returncode == 0) == (expect == 0), result.stdout + result.stderr
    return result
