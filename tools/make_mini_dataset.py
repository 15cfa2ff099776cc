"""Draw the synthetic mini dataset: images with ADE20K and COCO annotations."""

import argparse

from mmvitscale.cli import run_command


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--out', default='data/mini', help='folder; an earlier data set made here is replaced')
    parser.add_argument('--train', type=int, default=64, help='training scenes')
    parser.add_argument('--val', type=int, default=16, help='validation scenes')
    parser.add_argument('--image-size', type=int, default=256, help='side of the scenes in pixels')
    parser.add_argument(
        '--object-scale',
        type=float,
        metavar='S',
        help='size of objects and textures, 1 for those of scenes of 256 pixels (default: they grow with the scene)',
    )
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--depth', action='store_true', help='also TIFF files of four channels: colour and depth')
    return parser.parse_args()


def main(args):
    from mmvitscale.datasets import mini
    from mmvitscale.datasets.colour_baseline import colour_baseline

    root = mini.write_dataset(args.out, args.train, args.val, args.image_size, args.seed, args.depth, args.object_scale)
    print(
        f'{args.train} training and {args.val} validation scenes ({args.image_size}x{args.image_size}, synthetic, '
        f'{len(mini.CLASSES)} classes) in {root}'
    )
    print(f'mIoU of a per-pixel colour classifier on them: {colour_baseline(root / "ADEChallengeData2016"):.4f}')


if __name__ == '__main__':
    run_command(parse_args, main)
