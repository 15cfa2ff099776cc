"""Convert a SwinV2 or DeepViT checkpoint of any known library to mmvitscale's names, or to another library's, or only report
what it is. A folder in which DeepSpeed or torch.distributed.checkpoint left a sharded checkpoint becomes one file of the whole
model."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from mmvitscale.cli import run_command
from mmvitscale.errors import InputError
from mmvitscale.utils.atomic_write import check_writable, write_atomically
from mmvitscale.utils.choices import LIBRARIES


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('src', help='path or URL of a .pth, .bin or .safetensors file, or a folder of a sharded checkpoint')
    parser.add_argument(
        'dst', nargs='?', help='.pth or .safetensors file to write (without it: only a report); a folder for huggingface'
    )
    parser.add_argument(
        '--to',
        default='mmvitscale',
        choices=['mmvitscale', *LIBRARIES],
        help='whose names the weights get; for another library the backbone alone is written, with the head of a classifier',
    )
    parser.add_argument(
        '--pretrained-window-sizes',
        type=int,
        nargs='+',
        metavar='P',
        help='windows the position biases were trained with, one or one per stage; needed where the file does not contain them',
    )
    parser.add_argument('--prefix', metavar='P', help='what the names of the backbone stand behind, where there are several')
    parser.add_argument('--overwrite', action='store_true', help='replace DST if it exists')
    return parser.parse_args()


def check_destination(dst, force, to):
    if to == 'huggingface':
        if dst.suffix in ('.pth', '.safetensors', '.bin') or dst.is_file():
            raise InputError(f'DST is {dst}, but for huggingface it is a folder, with config.json and model.safetensors')
        found = [dst / name for name in ('config.json', 'model.safetensors') if (dst / name).exists()]
        if found and not force:
            raise InputError(f'{found[0]} exists; give another DST, or --overwrite to replace it')
        check_writable(dst.parent)
        return
    if dst.suffix not in ('.pth', '.safetensors'):
        raise InputError(f'DST is {dst}, but it ends in .pth or .safetensors')
    if dst.exists() and not force:
        raise InputError(f'{dst} exists; give another DST, or --overwrite to replace it')
    check_writable(dst.parent)


def given_metadata(sizes, converted):
    """What the file contains of its windows, completed by the command line."""
    from mmvitscale.checkpoints.metadata import WindowMetadata, check_pretrained_windows
    from mmvitscale.models.swin_v2.backbone import per_stage
    from mmvitscale.models.swin_v2.windows import to_window

    if sizes is None:
        return converted.weight_metadata
    metadata = converted.weight_metadata
    if not isinstance(metadata, WindowMetadata) or metadata.position_bias == 'table':
        raise InputError(
            '--pretrained-window-sizes was given, but this checkpoint has no pretrained windows; leave the option out'
        )
    sizes = per_stage(sizes if len(sizes) > 1 else sizes[0], len(metadata.pretrained_windows), '--pretrained-window-sizes')
    given = tuple(to_window(size) for size in sizes)
    check_pretrained_windows(metadata.pretrained_windows, given, '--pretrained-window-sizes')
    return replace(metadata, pretrained_windows=given)


def write_for_library(dst, back):
    """Write the weights, and say what does not go with them and what takes them."""
    from mmvitscale.checkpoints.io import write_checkpoint

    if back.config is None:
        write_checkpoint(dst, dict(back.content, state_dict=back.weights) if dst.suffix == '.safetensors' else back.content)
    else:
        write_checkpoint(dst / 'model.safetensors', dict(state_dict=back.weights))
        write_atomically(dst / 'config.json', lambda file: file.write(json.dumps(back.config, indent=2).encode()))
    print(f'written            {dst}, {len(back.weights)} entries as {back.library} names them')
    if back.left_out:
        print(f'left out           {", ".join(back.left_out)}: {back.library} has no place for them')
    for note in back.notes:
        print(f'note               {note}')
    print(f'loads into         {back.call(str(dst))}')


def report(src, converted, metadata):
    """Print what the checkpoint is."""
    from mmvitscale.checkpoints.metadata import WindowMetadata, pretrained_windows_of_name, show_windows
    from mmvitscale.models.build_from_weights import describe_weights

    print(f'format             {converted.source}\nvariant            {describe_weights(converted.weights)}')
    if isinstance(metadata, WindowMetadata):
        print(
            f'position bias      {metadata.position_bias or "log_cpb or linear_cpb"}\n'
            f'windows            {show_windows(metadata.windows)}'
        )
        if metadata.position_bias != 'table':
            print(f'pretrained windows {show_windows(metadata.pretrained_windows)}')
    elif metadata:
        print(f'position grid      {show_windows([metadata.grid])}')
    print(
        f'weights            {len(converted.weights)} loaded, {len(converted.dropped)} unexpected'
        f'{": " if converted.dropped else ""}{", ".join(converted.dropped[:8])}'
        f'{", ..." if len(converted.dropped) > 8 else ""}'
    )
    if isinstance(metadata, WindowMetadata) and metadata.position_bias != 'table' and None in metadata.pretrained_windows:
        proposal = pretrained_windows_of_name(src)
        print(
            'The file does not contain the windows that its position biases were trained with: give '
            f'--pretrained-window-sizes{" " + " ".join(map(str, proposal)) if proposal else ""} here, or '
            f'pretrained_window_sizes{f"={proposal}" if proposal else ""} in the config'
            f'{" (so its name says)" if proposal else ""}.'
        )


def main(args):
    from mmvitscale.checkpoints.convert import convert, convert_back, weights_in
    from mmvitscale.checkpoints.io import read_checkpoint, write_checkpoint
    from mmvitscale.checkpoints.metadata import META_KEY, WindowMetadata
    from mmvitscale.checkpoints.sharded import is_sharded, read_sharded
    from mmvitscale.models.build_from_weights import check_complete

    dst = Path(args.dst) if args.dst else None
    if dst:
        check_destination(dst, args.overwrite, args.to)
    elif args.to != 'mmvitscale':
        raise InputError(f'--to {args.to} was given without DST; say where to write')
    print(f'Reading {args.src} ...', flush=True)
    sharded = is_sharded(args.src)
    content = read_sharded(args.src) if sharded else read_checkpoint(args.src)
    try:
        found = weights_in(content)
        converted = convert(found, args.prefix)
        check_complete(converted)
    except InputError as error:
        raise InputError(f'{args.src}: {error}') from error
    metadata = given_metadata(args.pretrained_window_sizes, converted)

    report(args.src, converted, metadata)
    if args.to != 'mmvitscale':
        heads = {
            name.removeprefix('head.fc.'): found[key] for name, key in converted.heads.items() if name.startswith('head.fc.')
        }
        write_for_library(dst, convert_back(converted, metadata, args.to, heads))
    elif dst:
        meta = dict(source=converted.source)
        if isinstance(metadata, WindowMetadata):
            meta[META_KEY] = metadata.as_dict()
        state = content['state_dict'] if sharded else converted.state_dict(metadata)
        write_checkpoint(dst, dict(state_dict=state, meta=meta))
        if sharded:
            print(f'model              {len(state)} weights')
        print(f'written            {dst}')


if __name__ == '__main__':
    run_command(parse_args, main)
