"""Every tool as a process of its own. The other tests run them in their own process, where everything is imported already."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT

pytestmark = pytest.mark.slow

TOOLS = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / 'tools').rglob('*.py'))]
WITHOUT_PARSER = {'tools/dist_run.py'}  # options go to the tool it starts


@pytest.mark.parametrize('tool', [tool for tool in TOOLS if tool not in WITHOUT_PARSER])
def test_a_tool_starts_from_any_folder_and_describes_its_arguments(tool, tmp_path):
    result = subprocess.run([sys.executable, str(ROOT / tool), '--help'], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith('usage: ') and Path(tool).name in result.stdout
    assert not list(tmp_path.iterdir())
