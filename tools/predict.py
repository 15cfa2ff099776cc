"""Draw a checkpoint's predictions on an image or on every image of a folder: masks, boxes, the class of the image; with a
config of masked pretraining the masked, the reconstructed and the original image."""

import argparse
import sys

from mmengine.config import DictAction

from mmvitscale import inference
from mmvitscale.commands import check_writable, run_command
from mmvitscale.config import load_test_config


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('image', help='image, or folder of images')
    parser.add_argument('--out', required=True, metavar='D', help='folder of the pictures')
    parser.add_argument('--score-thr', type=float, default=0.3, help='draw instances of at least this score')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='override the config')
    return parser.parse_args()


def main():
    args = parse_args()
    cfg = load_test_config(args.config, args.cfg_options)
    images = inference.list_images(args.image, inference.ImageReader(inference.pipeline_of(cfg)).suffixes)
    out = check_writable(args.out)
    failures = inference.predict_folder(cfg, args.checkpoint, images, out, args.score_thr)
    for failure in failures:
        print(f'error: {failure}', file=sys.stderr)
    return 1 if failures else 0


if __name__ == '__main__':
    run_command(main)
