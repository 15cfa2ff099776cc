import subprocess
import sys

from commands import ROOT


def test_a_training_that_is_killed_ends_as_one_that_is_not():
    """The short form of ``python tests/kills.py --kills 100``."""
    result = subprocess.run([sys.executable, 'tests/kills.py', '--kills', '2', '--seed', '1'], cwd=ROOT, capture_output=True,
                            text=True, timeout=300)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert '2 kills' in result.stdout and '0 otherwise than the undisturbed one; 0 unreadable' in result.stdout
