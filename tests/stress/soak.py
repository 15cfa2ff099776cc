"""Train, validate, save and predict in one process, over and over, with images of ever new sizes, and watch what the process
holds: resident memory, open files, threads.

    python -m tests.stress.soak --minutes 30

Growth is that of the median of the last tenth over the median of the first tenth after the warm-up.
"""

import argparse
import gc
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import cv2
import numpy as np

from mmvitscale.cli import ConfigOptions
from mmvitscale.config.loading import load_config
from mmvitscale.config.runtime import fit_to_hardware
from mmvitscale.datasets.mini import write_dataset
from mmvitscale.inference import Predictor
from mmvitscale.utils.cpu import limit_kernel_cache

SEG = 'swinv2_upernet_mini'


def held():
    """(resident memory in MB, open files, threads of the system) of this process."""
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    threads = len(os.listdir('/proc/self/task'))
    return pages * os.sysconf('SC_PAGE_SIZE') / 1e6, len(os.listdir('/proc/self/fd')), threads


def options(data, crop, iters):
    return [
        f'data_root={data}',
        'train_dataloader.batch_size=2',
        f'train_cfg.max_iters={iters}',
        'train_cfg.val_interval=5',
        'default_hooks.checkpoint.interval=5',
        'default_hooks.checkpoint.max_keep_ckpts=1',
        f'train_dataloader.dataset.pipeline.2.crop_size=({crop[0]},{crop[1]})',
        'model.data_preprocessor.size=None',
        'model.data_preprocessor.size_divisor=1',
        'default_hooks.logger.interval=100',
        'log_level=ERROR',
        *(
            f'{split}_dataloader.{option}'
            for split in ('train', 'val', 'test')
            for option in ('num_workers=0', 'persistent_workers=False')
        ),
    ]


def cycle(folder, dice, number):
    """One training with a validation and checkpoints, and predictions of images of random sizes."""
    from mmengine.logging import MMLogger
    from mmengine.registry import RUNNERS
    from mmengine.visualization import Visualizer

    crop = dice.randrange(48, 129), dice.randrange(48, 129)
    parser = argparse.ArgumentParser()
    parser.add_argument('--options', nargs='+', action=ConfigOptions)
    chosen = parser.parse_args(['--options', *options(folder / 'data/ADEChallengeData2016', crop, 10)]).options
    cfg = load_config(SEG, chosen)
    cfg.work_dir = str(folder / 'work')
    cfg.experiment_name = f'soak{number}'
    fit_to_hardware(cfg)
    runner = RUNNERS.build(cfg)
    runner.train()
    predictor = Predictor(load_config(SEG, chosen), str(folder / 'work/iter_10.pth'))
    for _ in range(10):
        image = np.random.default_rng(number).integers(0, 255, (dice.randrange(40, 400), dice.randrange(40, 400), 3), np.uint8)
        cv2.imwrite(str(folder / 'image.png'), image)
        predictor(folder / 'image.png')
    # What MMEngine keeps by name for the life of a process: here there is a training after the other.
    from mmengine.utils.manager import ManagerMixin

    for kind in ManagerMixin.__subclasses__() + [MMLogger, Visualizer, *Visualizer.__subclasses__()]:
        for instance in list(getattr(kind, '_instance_dict', {}).values()):
            for handler in getattr(instance, 'handlers', []):
                handler.close()
        getattr(kind, '_instance_dict', {}).clear()
    gc.collect()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--minutes', type=float, default=30)
    parser.add_argument('--warm-up', type=float, default=0.2, help='part of the time that counts as such')
    parser.add_argument('--json', metavar='F')
    parser.add_argument('--as-it-comes', action='store_true', help="without the tools' limit to oneDNN's cache of kernels")
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    if not args.as_it_comes:
        limit_kernel_cache()
    from yapf.yapflib import yapf_api

    yapf_api.FormatCode = lambda text, *arguments, **more: (text, False)  # of configs that are logged
    dice, rows = random.Random(0), []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder / 'data', 8, 2, size=160)
        while time.monotonic() - began < 60 * args.minutes:
            cycle(folder, dice, len(rows))
            rows.append((time.monotonic() - began, *held()))
            if len(rows) % 10 == 1:
                print('{:6.0f} s  {:6.0f} MB  {} files  {} threads'.format(*rows[-1]), f' cycle {len(rows)}', flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(rows))
    warm = [row for row in rows if row[0] > args.warm_up * 60 * args.minutes]
    tenth = max(1, len(warm) // 10)
    first, last = (statistics.median(row[1] for row in part) for part in (warm[:tenth], warm[-tenth:]))
    files, threads = ([row[i] for row in warm] for i in (2, 3))
    print(
        f'{len(rows)} cycles in {rows[-1][0] / 60:.1f} minutes: resident memory {first:.0f} -> {last:.0f} MB '
        f'({100 * (last / first - 1):+.1f}%), open files {min(files)} to {max(files)}, threads {min(threads)} to '
        f'{max(threads)} '
        f'({threading.active_count()} of Python)'
    )
    return 1 if last > 1.03 * first or files[-1] > files[0] else 0


if __name__ == '__main__':
    sys.exit(main())
