"""Convert a SwinV2 or DeepViT checkpoint of any known library to mmvitscale's names, or only report what it is. A folder in
which DeepSpeed or torch.distributed.checkpoint left a model in pieces becomes one file of the whole model."""

import argparse
from dataclasses import replace
from pathlib import Path

from mmvitscale.checkpoints.convert import convert, weights_in
from mmvitscale.checkpoints.files import read_checkpoint, write_checkpoint
from mmvitscale.checkpoints.lineage import WindowLineage, check_agreement, reference_of_name, show_windows
from mmvitscale.checkpoints.sharded import is_sharded, read_sharded
from mmvitscale.commands import check_writable, run_command
from mmvitscale.errors import InputError
from mmvitscale.models.backbones.from_weights import check_complete
from mmvitscale.models.backbones.recognise import describe_weights
from mmvitscale.models.backbones.swin_v2 import per_stage
from mmvitscale.models.layers.windows import to_window


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('src', help='path or URL of a .pth, .bin or .safetensors file, or a folder of pieces')
    parser.add_argument('dst', nargs='?', help='.pth or .safetensors file to write (without it: only a report)')
    parser.add_argument('--pretrained-window-sizes', type=int, nargs='+', metavar='P',
                        help='windows the position biases were learned with, one or one per stage; needed where the '
                        'file does not tell')
    parser.add_argument('--prefix', metavar='P', help='what the names of the backbone stand behind, where there are several')
    parser.add_argument('--force', action='store_true', help='replace DST if it exists')
    return parser.parse_args()


def check_destination(dst, force):
    if dst.suffix not in ('.pth', '.safetensors'):
        raise InputError(f'DST is {dst}, but it ends in .pth or .safetensors')
    if dst.exists() and not force:
        raise InputError(f'{dst} exists; give another DST, or --force to replace it')
    check_writable(dst.parent)


def given_lineage(sizes, converted):
    """What the file tells of its windows, completed by the command line."""
    if sizes is None:
        return converted.lineage
    lineage = converted.lineage
    if not isinstance(lineage, WindowLineage) or lineage.position_bias == 'table':
        raise InputError('--pretrained-window-sizes was given, but this checkpoint has no reference windows; leave the '
                         'option out')
    sizes = per_stage(sizes if len(sizes) > 1 else sizes[0], len(lineage.references), '--pretrained-window-sizes')
    given = tuple(to_window(size) for size in sizes)
    check_agreement(lineage.references, given, '--pretrained-window-sizes')
    return replace(lineage, references=given)


def main():
    args = parse_args()
    dst = Path(args.dst) if args.dst else None
    if dst:
        check_destination(dst, args.force)
    print(f'Reading {args.src} ...', flush=True)
    sharded = is_sharded(args.src)
    content = read_sharded(args.src) if sharded else read_checkpoint(args.src)
    try:
        converted = convert(weights_in(content), args.prefix)
        check_complete(converted)
    except InputError as error:
        raise InputError(f'{args.src}: {error}') from error
    lineage = given_lineage(args.pretrained_window_sizes, converted)

    print(f'format             {converted.source}\nvariant            {describe_weights(converted.weights)}')
    if isinstance(lineage, WindowLineage):
        print(f'position bias      {lineage.position_bias or "log_cpb or linear_cpb"}\n'
              f'windows            {show_windows(lineage.windows)}')
        if lineage.position_bias != 'table':
            print(f'reference windows  {show_windows(lineage.references)}')
    elif lineage:
        print(f'position grid      {show_windows([lineage.grid])}')
    print(f'weights            {len(converted.weights)} taken over, {len(converted.dropped)} left out'
          f'{": " if converted.dropped else ""}{", ".join(converted.dropped[:8])}'
          f'{", ..." if len(converted.dropped) > 8 else ""}')
    if isinstance(lineage, WindowLineage) and lineage.position_bias != 'table' and None in lineage.references:
        proposal = reference_of_name(args.src)
        print('The file does not tell with which windows its position biases were learned: give '
              f'--pretrained-window-sizes{" " + " ".join(map(str, proposal)) if proposal else ""} here, or '
              f'pretrained_window_sizes{f"={proposal}" if proposal else ""} in the config'
              f'{" (so its name says)" if proposal else ""}.')
    if dst:
        meta = dict(source=converted.source)
        if isinstance(lineage, WindowLineage):
            meta['window_lineage'] = lineage.as_dict()
        state = content['state_dict'] if sharded else converted.state_dict(lineage)
        write_checkpoint(dst, dict(state_dict=state, meta=meta))
        if sharded:
            print(f'whole model        {len(state)} weights')
        print(f'written            {dst}')


if __name__ == '__main__':
    run_command(main)
