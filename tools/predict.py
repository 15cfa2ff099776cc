"""Predict images, videos, or all of folders: drawn on the images and, with --save, as data for the next program. With a
config of masked pretraining: the masked, the reconstructed and the original image."""

import argparse
import sys

from mmvitscale.cli import ConfigOptions, add_model, config_of, parse_model_args, run_command
from mmvitscale.utils.atomic_write import check_writable
from mmvitscale.utils.choices import SAVED_FORMATS, SAVED_KINDS


def add_tile_arguments(parser):
    parser.add_argument(
        '--tile',
        type=int,
        metavar='SIDE',
        help='predict in tiles of so many pixels, unresized: for images larger than memory (TIFF by windows, with rasterio)',
    )
    parser.add_argument(
        '--overlap',
        type=int,
        metavar='N',
        help='pixels that tiles share (default an eighth of the tile); no less than the largest object',
    )


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add_model(parser, 'checkpoint file, or what tools/export.py made of it')
    parser.add_argument('image', nargs='*', help='images, videos, and folders with any of them, at any depth')
    parser.add_argument(
        '--out',
        required=True,
        metavar='D',
        help='folder of the pictures, and of what else is saved; a call that was interrupted goes on when it is repeated',
    )
    parser.add_argument(
        '--save',
        nargs='+',
        choices=[*SAVED_KINDS, *SAVED_FORMATS],
        default=[],
        metavar='KIND',
        help='also write, into a folder of that name: labels (label maps, PNG or in tiles TIFF), scores '
        '(probabilities of all classes, NPY), logits (NPY), json (instances with masks, segments, shares of '
        'the classes, or scores; and all images together as coco.json and coco_results.json); or formats of '
        'annotation tools, with objects of at least --score-thr: ' + ', '.join(SAVED_FORMATS),
    )
    parser.add_argument('--no-pictures', action='store_true', help='do not draw')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='draw instances of at least this score, and write them in formats of '
        'annotation tools (default 0.3); other files hold all',
    )
    parser.add_argument('--annotations', metavar='F', help='COCO file whose ids of images and categories the JSON takes')
    parser.add_argument(
        '--batch-size',
        type=int,
        default=1,
        metavar='N',
        help='images of one size, frames or tiles that go through the model together (default 1)',
    )
    add_tile_arguments(parser)
    parser.add_argument('--overwrite', action='store_true', help='replace what is in the folder')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='override the config')
    return parse_model_args(parser)


def main(args):
    cfg = config_of(args.config, args.checkpoint, args.cfg_options, alone=True)
    from mmvitscale.inference.folder import predict_folder  # after the config, which says what need not be imported
    from mmvitscale.inference.output import PredictOptions

    overlap = args.overlap if args.overlap is not None else (args.tile or 0) // 8
    options = PredictOptions(
        not args.no_pictures,
        [kind for kind in args.save if kind in SAVED_KINDS],
        args.score_thr,
        args.batch_size,
        args.tile,
        overlap,
        args.annotations,
        args.overwrite,
        [name for name in args.save if name in SAVED_FORMATS],
    )
    result = predict_folder(cfg, args.checkpoint, args.image, check_writable(args.out), options)
    for note in result.notes:
        print(note)
    print(f'{result.done} predicted into {args.out}' + (f', {result.there} were there' if result.there else ''))
    for failure in result.failures:
        print(f'error: {failure}', file=sys.stderr)
    return 1 if result.failures else 0


if __name__ == '__main__':
    run_command(parse_args, main)
