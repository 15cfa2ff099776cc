"""Convert a data set from one annotation format into another: COCO, YOLO, Pascal VOC, LabelMe, CVAT, Label Studio, masks."""

import argparse
from pathlib import Path

from mmvitscale.cli import names_of, run_command
from mmvitscale.utils.choices import ANNOTATION_FORMATS


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('data', metavar='IN', help='a folder of annotations and images, or a COCO file')
    parser.add_argument('out', type=Path, metavar='OUT', help='the folder to write')
    parser.add_argument(
        '--to', required=True, choices=ANNOTATION_FORMATS, metavar='FORMAT', help=f'one of {", ".join(ANNOTATION_FORMATS)}'
    )
    parser.add_argument(
        '--format', choices=ANNOTATION_FORMATS, help='of IN (default: the one that the folder is found to have)'
    )
    parser.add_argument(
        '--classes',
        metavar='A,B,... or FILE',
        help='names of the classes in their order, where the format has none; a name with a comma in double quotes',
    )
    parser.add_argument('--no-images', action='store_true', help='write annotations alone, which lead to the images of IN')
    parser.add_argument(
        '--skip-invalid', action='store_true', help='leave invalid entries out and list them, in place of refusing the data'
    )
    parser.add_argument('--overwrite', action='store_true', help='replace OUT')
    return parser.parse_args()


def main(args):
    from mmvitscale.datasets.formats.annotations import Entries
    from mmvitscale.datasets.formats.registry import convert_dataset

    entries = Entries(args.skip_invalid, names_of(args.classes) if args.classes else None)
    lines = convert_dataset(args.data, args.out, args.to, args.format, entries, args.overwrite, not args.no_images)
    for line in lines:
        print(line)
    print(f'written: {args.out}')


if __name__ == '__main__':
    run_command(parse_args, main)
