"""Look at your own data and write a config for them, which tools/train.py takes."""

import argparse
from math import inf
from pathlib import Path

import torch

from mmvitscale.autoconfig.inspect_dataset import TASKS, inspect_dataset
from mmvitscale.autoconfig.write_config import write_config
from mmvitscale.cli import names_of, run_command
from mmvitscale.datasets.formats.registry import FORMATS
from mmvitscale.errors import InputError


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--data',
        required=True,
        metavar='DIR_OR_JSON',
        help='a folder of annotations and images in any of the formats, or a COCO file',
    )
    parser.add_argument(
        '--task',
        choices=TASKS,
        help='classes of pixels, boxes, or boxes and masks (default: by what the annotations are)',
    )
    parser.add_argument(
        '--format', choices=list(FORMATS), help='of the annotations (default: the one that the folder is found to have)'
    )
    parser.add_argument(
        '--skip-invalid', action='store_true', help='leave invalid entries out and list them, in place of refusing the data'
    )
    parser.add_argument('--out', required=True, type=Path, metavar='CONFIG', help='the config to write, e.g. my_data.py')
    parser.add_argument(
        '--classes',
        metavar='A,B,... or FILE',
        help='names of the classes in the order of their numbers, where the format has no names; else those to '
        'learn; a name with a comma in double quotes',
    )
    parser.add_argument(
        '--gpu-memory',
        type=float,
        metavar='GB',
        help="of the GPU (default: this machine's; without a GPU a small model is proposed)",
    )
    parser.add_argument('--frozen', action='store_true', help='keep the pretrained backbone as it is: for few images')
    parser.add_argument('--overwrite', action='store_true', help='overwrite the config')
    return parser.parse_args()


def main():
    args = parse_args()
    memory = args.gpu_memory
    if memory is None and torch.cuda.is_available():
        memory = torch.cuda.mem_get_info()[1] / 2**30
    if memory is not None and not 0 < memory < inf:
        raise InputError(f'--gpu-memory {memory:g} found, but it is the memory of a GPU in GB, a number above 0')
    classes = names_of(args.classes) if args.classes else None
    found = inspect_dataset(args.data, args.task, classes, args.format, args.skip_invalid)
    messages = write_config(found, args.out, memory, args.frozen, args.overwrite)
    for line in [*found.lines, *(f'note: {note}' for note in found.notes), *messages]:
        print(line)
    print(f'written: {args.out}\nnext: python tools/train.py {args.out}')


if __name__ == '__main__':
    run_command(main)
