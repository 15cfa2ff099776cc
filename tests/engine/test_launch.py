"""Processes that end together, with one error logged once."""

import os
import re
import subprocess
import sys

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from mmvitscale.config import runtime
from mmvitscale.engine import launch
from tests.helpers.commands import ROOT

pytestmark = pytest.mark.unit

# A tool that does what is asked of it: the process with this rank ends so, the others wait.
SCRIPT = """
import os, signal, sys, time
from mmvitscale.cli import run_command
from mmvitscale.errors import InputError

def main(args):
    how, rank = sys.argv[1], int(sys.argv[2])
    if int(os.environ['RANK']) != rank and rank >= 0:
        time.sleep(60)
    if how == 'input':
        raise InputError('no image found')
    if how == 'bug':
        raise ValueError('a bug of ' + os.environ['RANK'])
    if how == 'kill':
        os.kill(os.getpid(), signal.SIGKILL)
    print('all is well', flush=True)

run_command(lambda: None, main)
"""


@pytest.fixture
def end(tmp_path):
    """Runs two processes that end in some way; exit status and errors."""
    script = tmp_path / 'tool.py'
    script.write_text(SCRIPT)

    def run(how, rank):
        code = (
            'import sys; from mmvitscale.engine.launch import run_processes; '
            f'sys.exit(run_processes({str(script)!r}, [{how!r}, {str(rank)!r}], 2))'
        )
        result = subprocess.run(
            [sys.executable, '-c', code],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=50,
            env={**os.environ, 'PYTHONPATH': str(ROOT)},
        )
        left = subprocess.run(['pgrep', '-f', str(script)], capture_output=True, text=True).stdout
        assert not left, 'processes are left'
        return result.returncode, result.stdout, result.stderr.splitlines()

    return run


@pytest.mark.slow
def test_bad_input_is_reported_once_by_the_process_that_meets_it(end):
    code, _, errors = end('input', 1)
    assert code == 1 and errors == [f'error: no image found (process 1 on {launch.socket.gethostname()})']


@pytest.mark.slow
def test_an_exception_is_reported_with_a_single_traceback(end):
    code, _, errors = end('bug', 1)
    assert code == 1 and errors[-1].startswith('error: process 1 on') and 'ValueError: a bug of 1' in errors[-1]
    assert len([line for line in errors if line.startswith('Traceback')]) == 1


@pytest.mark.slow
def test_a_process_that_is_killed_ends_all(end):
    code, _, errors = end('kill', 1)
    assert code == 137 and len(errors) == 1 and 'process 1 on' in errors[0] and 'SIGKILL' in errors[0]


def failure(exitcode, timestamp, error=None):
    found = ProcessFailure(local_rank=0, pid=1, exitcode=exitcode, error_file='')
    found.timestamp = timestamp
    if error:
        found.error_file_data = dict(message=dict(message=error, extraInfo={}))
    return found


@pytest.mark.parametrize(
    'failures, rank',
    [
        ([failure(1, 10, 'RuntimeError: Connection closed by peer'), failure(-9, 10)], 1),
        ([failure(1, 10, 'RuntimeError: Connection closed by peer'), failure(1, 11, 'ValueError: wrong')], 1),
        ([failure(1, 10, 'RuntimeError: Connection closed by peer'), failure(1, 11, 'InputError: no')], 1),
        (
            [failure(1, 10, 'RuntimeError: Timed out waiting 20000ms'), failure(-9, 40)],
            0,
        ),  # it hung, and was killed in the end
        ([failure(-15, 9), failure(1, 10, 'ValueError: wrong')], 1),
        ([failure(1, 11, 'ValueError: later'), failure(1, 10, 'ValueError: first')], 1),
    ],
)
def test_the_first_cause_among_several_failures_is_identified(failures, rank):
    assert launch.cause(dict(enumerate(failures))) == rank


def test_bad_input_is_reported_in_preference_to_a_bug_or_signal(capsys):
    failures = {0: failure(1, 10, 'ValueError: wrong'), 1: failure(-15, 11, 'InputError: no image')}
    assert launch._tell(failures, 2) == 1  # it was stopped while it spoke
    assert capsys.readouterr().err.startswith('error: no image (process 1 on ')


@pytest.mark.integration
def test_an_invalid_number_of_processes_is_refused():
    number = 'two'
    result = subprocess.run(
        ['bash', 'tools/dist_train.sh', 'configs/mini/swinv2_upernet_mini.py', number],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHON': sys.executable},
    )
    assert result.returncode == 2 and f"the number of processes is '{number}', but it is 1 or more" in result.stderr


@pytest.mark.integration
@pytest.mark.parametrize(
    'settings, expected',
    [
        (dict(GPUS='16', PORT='123'), '--gres=gpu:8 --ntasks=16 --ntasks-per-node=8 --cpus-per-task=5'),
        (dict(GPUS='2'), '--gres=gpu:2 --ntasks=2 --ntasks-per-node=2 --cpus-per-task=5'),
        (dict(GPUS='16', GPUS_PER_NODE='4'), '--gres=gpu:4 --ntasks=16 --ntasks-per-node=4 --cpus-per-task=5'),
        (
            dict(GPUS='0', NTASKS='2', CPUS_PER_TASK='1', SRUN_ARGS='--mem=4G'),
            '--ntasks=2 --ntasks-per-node=2 --cpus-per-task=1',
        ),
    ],
)
@pytest.mark.parametrize('tool', ['train', 'test'])
def test_slurm_scripts_pass_gpus_tasks_and_port_to_srun(tool, settings, expected, tmp_path):
    stub = tmp_path / 'srun'
    stub.write_text(
        '#!/bin/sh\nfor i; do case "$i" in *" "*) i="<$i>";; esac; printf "%s " "$i"; done; echo port "$MASTER_PORT"\n'
    )
    stub.chmod(0o755)
    result = subprocess.run(
        ['bash', f'tools/slurm_{tool}.sh', 'part', 'job', 'config.py', 'a place', '--tta'],
        cwd=ROOT,
        text=True,
        capture_output=True,
        env={**os.environ, **settings, 'PATH': f'{tmp_path}:{os.environ["PATH"]}'},
    )
    assert result.returncode == 0, result.stderr
    logged = result.stdout.strip()
    assert logged.startswith(f'--partition=part --job-name=job {expected} --kill-on-bad-exit=1')
    place = '--work-dir <a place>' if tool == 'train' else '<a place>'
    assert re.search(rf'tools/{tool}.py config.py {place} --tta --launcher slurm port \d+$', logged)
    assert ('--mem=4G' in logged) == ('SRUN_ARGS' in settings) and ('port 123' in logged) == ('PORT' in settings)


@pytest.mark.integration
@pytest.mark.parametrize(
    'command, expected',
    [
        ('slurm_train.sh part job config.py', 'usage: .* PARTITION JOB_NAME CONFIG WORK_DIR'),
        ('slurm_train.sh part job config.py --amp', 'usage: .* PARTITION JOB_NAME CONFIG WORK_DIR'),
        ('slurm_test.sh part job config.py', 'usage: .* PARTITION JOB_NAME CONFIG CHECKPOINT'),
        ('dist_train.sh config.py', 'usage: .* CONFIG GPUS'),
        ('dist_test.sh config.py a.pth', 'usage: .* CONFIG CHECKPOINT GPUS'),
        ('dist_test.sh config.py 2 a.pth', "the number of processes is 'a.pth'"),
    ],
)
def test_scripts_take_the_arguments_of_mmdetections_in_their_order(command, expected):
    script, *arguments = command.split()
    result = subprocess.run(
        ['bash', f'tools/{script}', *arguments],
        cwd=ROOT,
        text=True,
        capture_output=True,
        env={**os.environ, 'PYTHON': sys.executable},
    )
    assert result.returncode == 2 and re.search(expected, result.stderr)
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.integration
def test_slurm_variables_set_the_torch_distributed_environment(monkeypatch):
    for name, value in dict(SLURM_NODELIST='node7', SLURM_PROCID='3', SLURM_LOCALID='1', SLURM_NTASKS='4').items():
        monkeypatch.setenv(name, value)
    for name in ('MASTER_ADDR', 'MASTER_PORT', 'RANK', 'LOCAL_RANK', 'WORLD_SIZE'):
        monkeypatch.setenv(name, '')  # to be restored
        monkeypatch.delenv(name)
    monkeypatch.setenv('PATH', '')  # no scontrol
    runtime._tell_torch_of_slurm(None)
    assert [os.environ[name] for name in ('MASTER_ADDR', 'MASTER_PORT', 'RANK', 'LOCAL_RANK', 'WORLD_SIZE')] == [
        'node7',
        '29500',
        '3',
        '1',
        '4',
    ]
