import runpy
import sys

import pytest
from commands import ROOT
from mmengine.logging import MMLogger


@pytest.fixture
def run_here(monkeypatch, capfd):
    """Runs a command in this process, to save time; returns its exit status, its output and its error output."""

    def run(tool, *arguments):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments)])
        # MMEngine names loggers by the second, and one of the same name would go on writing where the last command did.
        MMLogger._instance_dict.clear()
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(tool, run_name='__main__')
        output = capfd.readouterr()
        return stop.value.code, output.out, output.err

    return run


@pytest.fixture
def error_of(run_here):
    """Runs a command on bad input and returns the one line it ends with."""

    def run(tool, *arguments):
        code, out, err = run_here(tool, *arguments)
        assert code == 1
        assert 'Traceback' not in out + err
        lines = [line for line in err.splitlines() if line.startswith('error: ')]
        assert len(lines) == 1, err
        return lines[0]

    return run
