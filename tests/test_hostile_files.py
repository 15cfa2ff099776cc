import subprocess
import sys

import hostile_files
from commands import ROOT


def test_files_that_would_run_code_or_fill_the_memory():
    """Some of ``python tests/hostile_files.py``, of each kind."""
    assert len(hostile_files.FILES) >= 30
    result = subprocess.run([sys.executable, 'tests/hostile_files.py', '--every', '9'], cwd=ROOT, capture_output=True,
                            text=True, timeout=300)
    assert result.returncode == 0, result.stdout[-4000:]
    assert '0 ran code, 0 tracebacks or crashes, 0 accepted' in result.stdout
