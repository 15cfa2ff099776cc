"""Which process this is, of several."""

import os
import sys

# Set by ``engine/launch.py``, which prints the errors of the processes that it starts.
LAUNCHER = 'MMVITSCALE_LAUNCHER'


def is_first_process() -> bool:
    """Whether this is the first of all processes: known before they are connected, from what torchrun sets, or Slurm, where it
    is the launcher: in a shell or an array of a job every process is on its own."""
    by_slurm = any(argument.endswith('slurm') for argument in sys.argv)  # --launcher slurm
    return int(os.environ.get('RANK', os.environ.get('SLURM_PROCID', 0) if by_slurm else 0)) == 0


def is_first_on_machine() -> bool:
    """Whether this is the first process of its machine: torchrun and MMEngine's Slurm launcher number them. Machines may
    have disks of their own, so one process for all of them would not do."""
    from mmengine.dist import get_world_size, is_main_process  # PyTorch with it: not before it is needed

    local = os.environ.get('LOCAL_RANK', os.environ.get('SLURM_LOCALID'))
    # A single process has nobody who would do it, whatever Slurm calls it (a shell within a job, an array).
    return int(local) == 0 if local is not None and get_world_size() > 1 else is_main_process()
