"""Several processes of one tool: started by PyTorch's elastic launcher (torchrun), ended together, one error printed once."""

import logging
import os
import socket
import sys

import torch
import torch.distributed.run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from mmvitscale.utils.processes import LAUNCHER

# Seconds that PyTorch's launcher gives processes to end by themselves when one of them has failed or a signal has come.
GRACE = 30
_TERMINATED = -15  # by the launcher: never the cause
# Of errors whose cause is in another process.
_CONSEQUENCES = (
    'Connection closed by peer',
    'Connection reset by peer',
    'Broken pipe',
    'DistBackendError',
    'NCCL error',
    'DistNetworkError',
    'Timed out waiting',
    'of another process is NaN or Inf',
)


def run_processes(script: str, arguments: list[str], processes: int) -> int:
    """Run ``script arguments`` in so many processes on this machine, NNODES machines in all (their numbers NODE_RANK, the
    first one's address MASTER_ADDR and a PORT there). With a single machine and no PORT a free one is taken.

    Returns:
        exit status: 0, or that of the process that failed first, whose error is printed.
    """
    for logger in [name for name in logging.root.manager.loggerDict if name.startswith('torch.distributed.elastic')]:
        logging.getLogger(logger).setLevel(logging.CRITICAL)  # their tables would follow our sentence
    os.environ[LAUNCHER] = 'torchrun'
    # On a CPU the processes share the cores; with GPUs the work is elsewhere.
    threads = 1 if torch.cuda.is_available() else max((os.cpu_count() or 1) // processes, 1)
    os.environ.setdefault('OMP_NUM_THREADS', str(threads))
    nodes, port = os.environ.get('NNODES', '1'), os.environ.get('PORT')
    options = ['--nproc_per_node', str(processes)]
    if nodes == '1' and port is None:
        options.append('--standalone')
    else:
        options += [
            '--nnodes',
            nodes,
            '--node_rank',
            os.environ.get('NODE_RANK', '0'),
            '--master_addr',
            os.environ.get('MASTER_ADDR', '127.0.0.1'),
            '--master_port',
            port or '29500',
        ]
    try:
        torchrun.run(torchrun.parse_args([*options, script, *arguments]))
    except ChildFailedError as error:
        return _tell(error.failures, processes)
    except SignalException as signal:
        return 128 + signal.sigval
    except KeyboardInterrupt:
        return 130
    return 0


def cause(failures: dict[int, ProcessFailure]) -> int:
    """The rank whose failure brought down the others: bad input before anything else, then what came first, and of that a
    process that was killed, or failed by itself, before one that lost the others."""
    first = min(failure.timestamp for failure in failures.values())

    def key(rank: int):
        failure = failures[rank]
        text = _error_of(failure) or ''
        if text.startswith('InputError: ') and 'of another process is NaN or Inf' not in text:
            kind = 0
        elif failure.exitcode == _TERMINATED:
            kind = 4
        elif any(consequence in text for consequence in _CONSEQUENCES):
            kind = 3
        else:  # killed at the end of its grace, it is a consequence as well
            kind = 1 if failure.timestamp <= first + GRACE / 2 else 4
        return kind, failure.timestamp, rank

    return min(failures, key=key)


def _error_of(failure: ProcessFailure) -> str | None:
    """``Type: message`` of a process that said what ended it."""
    message = failure.error_file_data.get('message')
    return message.get('message') if isinstance(message, dict) else None


def _tell(failures: dict[int, ProcessFailure], processes: int) -> int:
    """Print the error that ended all, and return the exit status."""
    rank = cause(failures)
    failure = failures[rank]
    error = _error_of(failure)
    where = f'process {rank} on {socket.gethostname()}'
    if error and error.startswith('InputError: '):
        others = '' if rank == 0 else f' ({where})'
        print(f'error: {error.removeprefix("InputError: ")}{others}', file=sys.stderr)
    elif error and 'Timed out waiting' in error:
        print(
            f'error: {where} waited for another one longer than env_cfg.dist_cfg.timeout; that one hangs, or works longer '
            'than the timeout allows; all were stopped',
            file=sys.stderr,
        )
    elif error:
        print(failure.error_file_data['message']['extraInfo']['py_callstack'].rstrip(), file=sys.stderr)
        print(f'error: {where} ended with {error.splitlines()[0].rstrip(": ")}; the others were stopped', file=sys.stderr)
    else:
        how = f'was killed by {failure.signal_name()}' if failure.exitcode < 0 else f'ended with status {failure.exitcode}'
        memory = ' (often a want of main memory)' if failure.exitcode == -9 else ''
        print(f'error: {where} {how}{memory}; the others were stopped', file=sys.stderr)
    if failure.exitcode < 0 and not error:
        return 128 - failure.exitcode
    return max(failure.exitcode, 1)  # what it said is its end, even if it was stopped while it spoke
