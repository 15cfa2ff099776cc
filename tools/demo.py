"""From nothing to a trained model and a picture: scenes, training, testing, drawing. The same commands as a user's."""

import argparse
import json
import re
import shlex
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

CONFIG = 'configs/mini/swinv2_upernet_mini.py'
SCENES = Path('data/mini')
WORK_DIR = Path('work_dirs/demo')
STEP = re.compile(r'Iter\((train|val|test)\) *\[ *(\d+)/(\d+)\].*?eta: (?:(\d+) days?, )?(\d+):(\d+):(\d+)')


def in_words(seconds):
    """What is left, as one says it."""
    minutes = round(seconds / 60)
    return 'less than a minute' if seconds < 60 else f'about {max(minutes, 1)} minute{"s" if minutes > 1 else ""}'


def run(*command):
    """Run a tool, and say in one line how far it is; what it says itself goes into its log, and here if it fails."""
    print(f'\n$ python {shlex.join(command)}', flush=True)
    process = subprocess.Popen([sys.executable, *command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said, shown = deque(maxlen=60), -1
    for line in process.stdout:
        said.append(line)
        step = STEP.search(line)
        if step:
            done, of = int(step[2]), int(step[3])
            hours, minutes, seconds = map(int, step.groups()[4:])
            loss = re.search(r' loss: ([\d.]+)', line)
            share = 10 * done // of
            if share > shown:
                shown = share
                print(
                    f'  {100 * done // of:3d}%, {in_words(3600 * hours + 60 * minutes + seconds)} left'
                    f'{f", loss {float(loss[1]):.2f}" if loss else ""}',
                    flush=True,
                )
        elif not re.match(r'\d\d/\d\d |[+|]|Loads checkpoint|Could not import|\s|.*Warning', line) and len(command) < 4:
            print(f'  {line.rstrip()}', flush=True)
    if process.wait():
        print(''.join(said), file=sys.stderr)
        sys.exit(1)


def parse_args():
    return argparse.ArgumentParser(description=__doc__).parse_args()


def main(args):
    import cv2

    from mmvitscale.datasets.colour_baseline import colour_baseline

    run('tools/make_mini_dataset.py', '--out', str(SCENES))
    start = time.monotonic()
    run('tools/train.py', CONFIG, '--work-dir', str(WORK_DIR))
    minutes = (time.monotonic() - start) / 60
    checkpoint = (WORK_DIR / 'last_checkpoint').read_text().strip()
    pictures, metrics = WORK_DIR / 'pictures', WORK_DIR / 'metrics.json'
    run('tools/test.py', CONFIG, checkpoint, '--work-dir', str(WORK_DIR), '--show-dir', str(pictures), '--out', str(metrics))
    run('tools/report.py', str(WORK_DIR))

    miou = json.loads(metrics.read_text())['mIoU'] / 100
    baseline = colour_baseline(SCENES / 'ADEChallengeData2016')
    first = sorted(pictures.glob('*.png'))[0]
    height, width = cv2.imread(str(first)).shape[:2]
    print(f"""
A small SwinV2 + UPerNet, trained for {minutes:.1f} minutes on synthetic scenes (never seen: the validation scenes).
  validation mIoU                   {miou:.4f}
  per-pixel colour classifier mIoU  {baseline:.4f}
  checkpoint  {checkpoint}
  pictures    {first} and {len(list(pictures.glob('*.png'))) - 1} more ({width}x{height}: image, ground truth, prediction)
  report      {WORK_DIR / 'report.html'} (curves, worst and best predictions, mistakes; opens in any browser)
  next        python tools/predict.py {CONFIG} {checkpoint} YOUR_IMAGE --out work_dirs/demo/predictions""")


if __name__ == '__main__':
    main(parse_args())
