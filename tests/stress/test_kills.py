import subprocess
import sys

import pytest

from tests.helpers.commands import ROOT

pytestmark = pytest.mark.slow


def test_a_killed_and_resumed_training_equals_an_undisturbed_one():
    """The short form of ``python -m tests.stress.kills --kills 100``."""
    result = subprocess.run(
        [sys.executable, '-m', 'tests.stress.kills', '--kills', '2', '--seed', '1'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert '2 kills' in result.stdout and '0 otherwise than the undisturbed one; 0 unreadable' in result.stdout
