"""Make one HTML page of a training: config, curves, windows, worst and best predictions, classes, confusion matrix, position
biases, speed, environment. It opens from the disk and needs no network."""

import argparse
import sys
from pathlib import Path

from mmvitscale.checkpoints.names import is_checkpoint
from mmvitscale.cli import ConfigOptions, run_command
from mmvitscale.errors import InputError
from mmvitscale.utils.atomic_write import check_writable


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', metavar='work_dir_or_checkpoint', help='work folder of a training, or a checkpoint alone')
    parser.add_argument('--checkpoint', metavar='F', help='which one to look at (default: the best, else the last one there)')
    parser.add_argument(
        '--out', metavar='F', help='the page (default: WORK_DIR/report.html, or CHECKPOINT_report.html beside a checkpoint)'
    )
    parser.add_argument(
        '--limit', type=int, default=200, metavar='N', help='test images to predict, spread evenly (default 200)'
    )
    parser.add_argument('--pictures', type=int, default=4, metavar='N', help='worst and best ones to show, each (default 4)')
    parser.add_argument('--score-thr', type=float, default=0.3, help='show and count objects of at least this score')
    parser.add_argument(
        '--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='override the config, e.g. data_root'
    )
    return parser.parse_args()


def main(args):
    from mmvitscale.analysis.report import write_report

    if args.limit < 1 or args.pictures < 0:
        raise InputError(f'--limit {args.limit} --pictures {args.pictures} found, but they are at least 1 and 0')
    source = Path(args.work_dir)
    alone = is_checkpoint(source) and not source.is_dir()
    if alone and args.checkpoint:
        raise InputError(f'--checkpoint {args.checkpoint} and the checkpoint {source} found; give one, or a work folder')
    if not source.is_dir() and not (alone and source.is_file()):
        raise InputError(f'work folder or checkpoint {source} is not there; give that of a training')
    out = Path(args.out or (source.with_name(f'{source.stem}_report.html') if alone else source / 'report.html'))
    check_writable(out.parent)
    notes = write_report(source, out, args.checkpoint, args.limit, args.pictures, args.cfg_options, args.score_thr)
    for note in notes:
        print(f'note: {note}', file=sys.stderr)
    print(out)


if __name__ == '__main__':
    run_command(parse_args, main)
