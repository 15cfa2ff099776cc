import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.registry import DefaultScope, init_default_scope

from tests.helpers.commands import in_process

pytest_plugins = ['tests.helpers.tiers', 'pytester']


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def no_git(command):
    """As MMEngine sees a machine without git."""
    raise OSError(command)


@pytest.fixture(scope='session', autouse=True)
def quick_logs():
    """What takes most of the time of a short training: MMEngine formats configs that it logs or saves with yapf, and starts
    git and compilers to log their versions."""
    from mmengine._strategy import base
    from mmengine.dataset import base_dataset
    from mmengine.runner import runner
    from mmengine.utils import version_utils
    from yapf.yapflib import yapf_api

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yapf_api, 'FormatCode', lambda text, *args, **kwargs: (text, False))
        for module in (base, runner):
            patch.setattr(module, 'collect_env', dict)
        patch.setattr(version_utils, '_minimal_ext_cmd', no_git)
        # Collects garbage for every data set, of a whole process with all of OpenMMLab in it.
        patch.setattr(base_dataset, 'gc', SimpleNamespace(collect=int))
        yield


@pytest.fixture(autouse=True)
def quiet_stale_loggers(monkeypatch):
    """MMEngine's loggers outlive the test whose captured output they were opened on, and would print a traceback of
    their own wherever a later test makes them speak."""
    monkeypatch.setattr(logging, 'raiseExceptions', False)


@pytest.fixture(autouse=True)
def untouched_choices(monkeypatch):
    """No test reads or writes which kernels of attention were measured as the fastest in the user's cache."""
    from mmvitscale.models.swin_v2 import tuning

    monkeypatch.setattr(tuning, 'choices_file', lambda: None)
    monkeypatch.setattr(tuning, '_chosen', {})
    monkeypatch.setattr(tuning, '_measured', {})


@pytest.fixture
def mmdet_scope():
    """Types without a scope are mmdetection's; afterwards those of before."""
    before = DefaultScope.get_current_instance()
    init_default_scope('mmdet')
    yield
    if before is not None:
        init_default_scope(before.scope_name)


@pytest.fixture
def logged(monkeypatch):
    """The lines that backbones log while weights are loaded."""
    from mmvitscale.models import base_backbone
    from mmvitscale.models.swin_v2 import checkpoint_policy

    lines = []
    for module in (base_backbone, checkpoint_policy):
        monkeypatch.setattr(module, 'print_log', lambda text, *args, **kwargs: lines.append(text))
    return lines


@pytest.fixture
def run_here(capfd):
    """Runs a command in this process, to save time; returns its exit status, its output and its error output."""

    def run(tool, *arguments):
        code = in_process(tool, *arguments)
        output = capfd.readouterr()
        return code, output.out, output.err

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
