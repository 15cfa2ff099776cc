"""Running the project's commands: as a user types them, or in this process, which saves the imports."""

import contextlib
import io
import os
import re
import runpy
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.utils import manager

from mmvitscale.utils import unneeded_imports

ROOT = Path(__file__).parents[2]

# Nothing in the background: the tests are too short to gain from it.
FOREGROUND = [
    f'{split}_dataloader.{option}'
    for split in ('train', 'val', 'test')
    for option in ('num_workers=0', 'persistent_workers=False')
]


def in_process(tool, *arguments):
    """Run a tool in this process; returns its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, 'argv', [tool, *map(str, arguments)])
        # MMEngine names loggers by the second, and one of the same name would go on writing where the last command did.
        MMLogger._instance_dict.clear()
        for name in [name for name in DefaultScope._instance_dict if re.search(r'_\d{8}_\d{6}$', name)]:
            del DefaultScope._instance_dict[name]  # of an experiment of the same second, whose scope would not be set
        # MMEngine does not release it when what it was making raises: threads of the next command would wait for ever.
        patch.setattr(manager, '_lock', threading.RLock())
        # What one command does without, another one in this process needs.
        patch.setattr(unneeded_imports, '_import_without', lambda unneeded, module: None)
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(tool, run_name='__main__')
        return stop.value.code


def output_of(tool, *arguments):
    """Run a tool in this process, which must succeed; returns what it printed. For fixtures that outlive a test."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(printed):
        code = in_process(tool, *arguments)
    assert code == 0, printed.getvalue()
    return printed.getvalue()


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
    result = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert (result.returncode == 0) == (expect == 0), result.stdout + result.stderr
    return result
