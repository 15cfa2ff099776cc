"""Look at your own data and write a config for them, which tools/train.py takes."""

import argparse
from pathlib import Path

from mmvitscale.cli import add_training_arguments, names_of, run_command
from mmvitscale.utils.choices import ANNOTATION_FORMATS, TASKS


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
        '--format', choices=ANNOTATION_FORMATS, help='of the annotations (default: the one that the folder is found to have)'
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
    add_training_arguments(parser)
    parser.add_argument('--overwrite', action='store_true', help='overwrite the config')
    return parser.parse_args()


def main(args):
    from mmvitscale.autoconfig.propose import propose_config
    from mmvitscale.config.training_options import TrainingOptions

    classes = names_of(args.classes) if args.classes else None
    lines = propose_config(
        args.data,
        args.out,
        args.task,
        args.format,
        classes,
        args.gpu_memory,
        args.frozen,
        args.skip_invalid,
        args.overwrite,
        TrainingOptions(args.track, args.ema, args.early_stop, args.batch_size),
    )
    for line in lines:
        print(line)
    print(f'written: {args.out}\nnext: python tools/train.py {args.out}')


if __name__ == '__main__':
    run_command(parse_args, main)
