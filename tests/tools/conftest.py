import runpy
import sys

import pytest
from commands import ROOT


@pytest.fixture
def error_of(monkeypatch, capsys):
    """Runs a command on bad input, in this process to save time, and returns the one line it ends with."""

    def run_in_process(tool, *arguments):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(tool, run_name='__main__')
        assert stop.value.code == 1
        output = capsys.readouterr()
        assert 'Traceback' not in output.out + output.err
        lines = [line for line in output.err.splitlines() if line.startswith('error: ')]
        assert len(lines) == 1, output.err
        return lines[0]

    return run_in_process
