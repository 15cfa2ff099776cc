"""From nothing to a trained model and a picture: scenes, training, testing, drawing. The same commands as a user's."""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import cv2

from mmvitscale.datasets.colour_baseline import colour_baseline

CONFIG = 'configs/mini/swinv2_upernet_mini.py'
SCENES = Path('data/mini')
WORK_DIR = Path('work_dirs/demo')


def run(*command):
    print(f'\n$ python {shlex.join(command)}', flush=True)
    if subprocess.run([sys.executable, *command]).returncode:
        sys.exit(1)


def main():
    run('tools/make_mini_dataset.py', '--out', str(SCENES))
    start = time.monotonic()
    run('tools/train.py', CONFIG, '--work-dir', str(WORK_DIR))
    minutes = (time.monotonic() - start) / 60
    checkpoint = (WORK_DIR / 'last_checkpoint').read_text().strip()
    pictures, metrics = WORK_DIR / 'pictures', WORK_DIR / 'metrics.json'
    run('tools/test.py', CONFIG, checkpoint, '--work-dir', str(WORK_DIR), '--show-dir', str(pictures),
        '--out', str(metrics))
    run('tools/report.py', str(WORK_DIR))

    miou = json.loads(metrics.read_text())['mIoU'] / 100
    baseline = colour_baseline(SCENES / 'ADEChallengeData2016')
    first = sorted(pictures.glob('*.png'))[0]
    height, width = cv2.imread(str(first)).shape[:2]
    print(f'''
A small SwinV2 + UPerNet, trained for {minutes:.1f} minutes on synthetic scenes (never seen: the validation scenes).
  validation mIoU                   {miou:.4f}
  per-pixel colour classifier mIoU  {baseline:.4f}
  checkpoint  {checkpoint}
  pictures    {first} and {len(list(pictures.glob('*.png'))) - 1} more ({width}x{height}: image, truth, prediction)
  report      {WORK_DIR / 'report.html'} (curves, worst and best predictions, mistakes; opens in any browser)
  next        python tools/predict.py {CONFIG} {checkpoint} YOUR_IMAGE --out work_dirs/demo/predictions''')


if __name__ == '__main__':
    main()
