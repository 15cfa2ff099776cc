"""Convert a SwinV2 or DeepViT checkpoint of any known library to mmvitscale's names, or only report what it is."""

import argparse
from pathlib import Path

from mmvitscale import launch
from mmvitscale.checkpoints.convert import describe_arch
from mmvitscale.checkpoints.files import write_checkpoint
from mmvitscale.checkpoints.pretrained import convert_file
from mmvitscale.errors import InputError
from mmvitscale.models.backbones.swin_v2 import per_stage
from mmvitscale.models.layers.windows import to_window


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('src', help='path or URL of a .pth, .bin or .safetensors file')
    parser.add_argument('dst', nargs='?', help='.pth or .safetensors file to write (without it: only a report)')
    parser.add_argument('--pretrained-window-sizes', type=int, nargs='+', metavar='P',
                        help='windows the position biases were learned with, one or one per stage; needed where the '
                        'file does not tell')
    parser.add_argument('--force', action='store_true', help='replace DST if it exists')
    return parser.parse_args()


def check_destination(dst, force):
    if dst.suffix not in ('.pth', '.safetensors'):
        raise InputError(f'DST is {dst}, but it ends in .pth or .safetensors')
    if dst.exists() and not force:
        raise InputError(f'{dst} exists; give another DST, or --force to replace it')
    launch.check_writable(dst.parent)


def given_references(sizes, converted):
    """One reference window per stage from the command line, checked against what the checkpoint tells."""
    stages = len(converted.references)
    if sizes is None:
        return [None] * stages
    if not stages:
        raise InputError('--pretrained-window-sizes was given, but a DeepViT has no windows; leave the option out')
    sizes = per_stage(sizes if len(sizes) > 1 else sizes[0], stages, '--pretrained-window-sizes')
    given = [to_window(size) for size in sizes]
    if any(own and own != window for own, window in zip(converted.references, given)):
        raise InputError(f'the checkpoint learned its position biases with the windows {list(converted.references)}, '
                         f'but --pretrained-window-sizes says {given}; leave the option out')
    return given


def main():
    args = parse_args()
    dst = Path(args.dst) if args.dst else None
    if dst:
        check_destination(dst, args.force)
    print(f'Reading {args.src} ...', flush=True)
    converted = convert_file(args.src)
    given = given_references(args.pretrained_window_sizes, converted)
    references = [own or window for own, window in zip(converted.references, given)]

    def windows(values):
        return ', '.join('unknown' if window is None else f'{window[0]}x{window[1]}' for window in values)

    print(f'format             {converted.source}\nvariant            {describe_arch(converted.arch)}')
    if references:
        print(f'windows            {windows(converted.windows)}\nreference windows  {windows(references)}')
    print(f'weights            {len(converted.weights)} taken over, {len(converted.dropped)} left out'
          f'{": " if converted.dropped else ""}{", ".join(converted.dropped[:8])}'
          f'{", ..." if len(converted.dropped) > 8 else ""}')
    if None in references:
        print('The file does not tell with which windows its position biases were learned: give '
              '--pretrained-window-sizes here, or pretrained_window_sizes in the config.')
    if dst:
        lineage = [list(window) if window else None for window in references]
        write_checkpoint(dst, dict(state_dict=converted.state_dict(given),
                                   meta=dict(window_lineage=dict(reference_windows=lineage), source=converted.source)))
        print(f'written            {dst}')


if __name__ == '__main__':
    launch.run_command(main)
