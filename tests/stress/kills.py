"""Kill a training at random moments, many of them while it saves, resume it each time, and compare how it ends with a training
that nobody disturbed.

    python -m tests.stress.kills --kills 100

The processes that train are forked from this one, which has imported everything, so that each starts in a second. None of them
gets a chance to clean up: SIGKILL.
"""

import argparse
import os
import random
import re
import runpy
import select
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')  # no thread may run when this process forks

import torch  # noqa: E402

from mmvitscale.checkpoints.io import read_checkpoint  # noqa: E402
from mmvitscale.checkpoints.resume import is_complete  # noqa: E402
from mmvitscale.config.loading import load_config  # noqa: E402
from mmvitscale.datasets.mini import write_dataset  # noqa: E402
from mmvitscale.utils import atomic_write as writing  # noqa: E402
from tests.helpers.commands import ROOT  # noqa: E402

ITERS = 12
# Everything that has a state beside the weights: averages, windows and crops that grow, the best metrics, retention.
CONFIG = """
_base_ = 'mmvitscale::swinv2_upernet_mini'
custom_hooks = [
    dict(type='mmvitscale.LogCPBTransferHook'),
    dict(type='EMAHook', momentum=0.1),
    dict(type='mmvitscale.ProgressiveWindowHook', schedule=[
        dict(begin=0, window_size=4, crop_size=(64, 64)), dict(begin=7, window_size=8, crop_size=(96, 96))]),
]
"""
OPTIONS = [
    'model.backbone.drop_path_rate=0.3',
    'train_dataloader.batch_size=2',
    f'train_cfg.max_iters={ITERS}',
    'train_cfg.val_interval=5',
    'default_hooks.checkpoint.interval=2',
    'default_hooks.checkpoint.max_keep_ckpts=2',
    'default_hooks.checkpoint.save_best=mIoU',
    'optim_wrapper.optimizer.type=AdamW',
]


def arguments(folder, work_dir, workers):
    background = [
        f'{split}_dataloader.{option}'
        for split in ('train', 'val')
        for option in (f'num_workers={workers}', f'persistent_workers={workers > 0}')
    ]
    return [
        'tools/train.py',
        str(folder / 'config.py'),
        '--work-dir',
        str(work_dir),
        '--resume',
        '--cfg-options',
        f'data_root={folder}/mini/ADEChallengeData2016',
        *OPTIONS,
        *background,
    ]


def start(command, log):
    """A process that trains -> its number, and a pipe that names each file that it begins (S) and has ended (s) to write."""
    reading, telling = os.pipe()
    pid = os.fork()
    if pid:
        os.close(telling)
        return pid, reading
    os.setpgid(0, 0)  # its loading processes go with it
    os.close(reading)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    enter, leave = writing.atomic_write.__enter__, writing.atomic_write.__exit__

    def tell_and_enter(file):
        os.write(telling, b'S')
        return enter(file)

    def leave_and_tell(file, *error):
        leave(file, *error)
        os.write(telling, b's')

    writing.atomic_write.__enter__, writing.atomic_write.__exit__ = tell_and_enter, leave_and_tell
    os.chdir(ROOT)
    sys.argv = command
    try:
        runpy.run_path(command[0], run_name='__main__')
    except SystemExit as stop:
        os._exit(int(stop.code or 0))
    except BaseException:
        import traceback

        traceback.print_exc()
    os._exit(1)


def wait(pid, reading, dice, how, pace):
    """Let it train until its end or until it is killed -> ('ended', status), ('killed', 'while saving' or 'between').

    how: None lets it be; 'saving' kills it at a random moment while it writes its first or a later file; 'any' at a random
    moment after its start. pace: seconds that a whole training and a single file take; they are measured when it is let be.
    """
    begun = time.monotonic()
    began_to_write = 0
    patience = {'saving': dice.choice([1, 1, 2, 3, 4]), 'any': None, None: None}[how]
    deadline = begun + dice.uniform(0.1, 1) * pace['training'] if how == 'any' else float('inf')
    written, saving = 0, False
    while True:
        ready, _, _ = select.select([reading], [], [], max(0, min(deadline - time.monotonic(), 1)))
        logged = os.read(reading, 64) if ready else b''
        for sign in logged.decode():
            saving = sign == 'S'
            written += saving
            if saving:
                began_to_write = time.monotonic()
            elif how is None:
                pace['file'] = max(pace['file'], time.monotonic() - began_to_write)
        if how == 'saving' and saving and written >= patience:
            time.sleep(dice.uniform(0, pace['file']))
            deadline = 0
        if time.monotonic() >= deadline:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            left, _, _ = select.select([reading], [], [], 0)
            for sign in (os.read(reading, 64) if left else b'').decode():
                saving = sign == 'S'
            os.close(reading)
            return 'killed', 'while saving' if saving else 'between'
        if ready and not logged or not ready:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                os.close(reading)
                if how is None:
                    pace['training'] = time.monotonic() - begun
                return 'ended', os.waitstatus_to_exitcode(status)
            if ready:  # the pipe is closed, the process ends
                time.sleep(0.01)


def content_of(work_dir):
    """Weights, averages and the optimizer's states after the last iteration."""
    content = read_checkpoint(work_dir / f'iter_{ITERS}.pth')
    return {key: content[key] for key in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers')}


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--kills', type=int, default=100)
    parser.add_argument('--workers', type=int, default=0, help='loading processes')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    dice = random.Random(args.seed)
    folder = Path(tempfile.mkdtemp())
    try:
        return run(args, dice, folder)
    finally:
        shutil.rmtree(folder)


def run(args, dice, folder):
    write_dataset(folder / 'mini', 8, 4)
    (folder / 'config.py').write_text(CONFIG)
    load_config(folder / 'config.py')
    import mmseg.apis  # noqa: F401  before the first fork
    import mmseg.datasets  # noqa: F401
    import mmseg.models  # noqa: F401
    from yapf.yapflib import yapf_api

    yapf_api.FormatCode = lambda text, *args, **kwargs: (text, False)  # most of the time of so short a training
    whole = folder / 'whole'
    pace = dict(training=0.0, file=0.0)
    state = wait(*start(arguments(folder, whole, args.workers), folder / 'log'), dice, None, pace)
    if state != ('ended', 0):
        print((folder / 'log').read_text())
        return 1
    expected = content_of(whole)

    print(f'a training takes {pace["training"]:.1f} s here, a file up to {pace["file"]:.2f} s')
    counts = {'while saving': 0, 'between': 0}
    trainings = differences = unreadable = skipped = 0
    while sum(counts.values()) < args.kills:
        work_dir = folder / f'cut{trainings}'
        state = None
        while state is None or state[0] == 'killed':
            left = args.kills - sum(counts.values())
            how = None if left <= 0 else dice.choice(['saving', 'any'])
            state = wait(*start(arguments(folder, work_dir, args.workers), folder / 'log'), dice, how, pace)
            log = (folder / 'log').read_text()
            skipped += len(re.findall('is not whole', log))
            if state[0] == 'killed':
                counts[state[1]] += 1
                unreadable += sum(not is_complete(path) for path in work_dir.glob('[!.]*.pth'))
        if state != ('ended', 0):
            print(log)
            return 1
        differences += not equal(content_of(work_dir), expected)
        trainings += 1
        shutil.rmtree(work_dir)
    print(
        f'{sum(counts.values())} kills, {counts["while saving"]} while a file was written; {trainings} trainings ended, '
        f'{differences} otherwise than the undisturbed one; {unreadable} unreadable checkpoints seen, {skipped} skipped when '
        'resuming'
    )
    return 1 if differences or unreadable or skipped else 0


if __name__ == '__main__':
    sys.exit(main())
