import subprocess
import sys

import pytest

from tests.helpers.commands import ROOT
from tests.stress import hostile_files

pytestmark = pytest.mark.slow


def test_hostile_files_are_refused_and_run_no_code():
    """Some of ``python -m tests.stress.hostile_files``, of each kind."""
    assert len(hostile_files.FILES) >= 30
    result = subprocess.run(
        [sys.executable, '-m', 'tests.stress.hostile_files', '--every', '9'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout[-4000:]
    assert '0 ran code, 0 tracebacks or crashes, 0 accepted' in result.stdout
