"""Write a trained model as ONNX, torch.export or OpenVINO file, for some sizes or for every size, compare it with PyTorch, and
time it. tools/test.py and tools/predict.py take the file in place of a checkpoint."""

import argparse
import re
import statistics
from pathlib import Path

from mmvitscale.cli import ConfigOptions, add_model, config_of, parse_model_args, run_command
from mmvitscale.errors import InputError
from mmvitscale.utils.atomic_write import check_writable
from mmvitscale.utils.choices import EXPORT_FORMATS


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add_model(parser)
    parser.add_argument('--out', required=True, metavar='D', help='folder of the files')
    parser.add_argument('--format', choices=list(EXPORT_FORMATS), default='onnx', help='default onnx')
    parser.add_argument(
        '--part',
        choices=['model', 'backbone'],
        default='model',
        help='the whole model (default), or the maps of its backbone and neck',
    )
    parser.add_argument(
        '--image-size', nargs='+', default=[], metavar='HxW', help='sides, or heights and widths, of images; a file for each'
    )
    parser.add_argument('--any-size', action='store_true', help='one file for every size and batch')
    parser.add_argument('--batch-size', type=int, default=1, metavar='N', help='images that go together in the files of a size')
    parser.add_argument(
        '--int8',
        type=int,
        default=0,
        metavar='N',
        help='integers of 8 bits in matrix products and convolutions, with ranges of N training images',
    )
    parser.add_argument('--time', type=int, default=0, metavar='R', help='time PyTorch and the files in R rounds by turns')
    parser.add_argument('--overwrite', action='store_true', help='replace files that exist')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='override the config')
    return parse_model_args(parser)


def sizes_of(args):
    """Heights and widths, None for every size."""
    sizes = []
    for text in args.image_size:
        match = re.fullmatch(r'(\d+)(?:x(\d+))?', text)
        size = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not all(size):
            raise InputError(
                f'--image-size {text} found, but a size is a side or HEIGHTxWIDTH in pixels, such as 512 or 512x640'
            )
        sizes.append(size)
    if not sizes and not args.any_size:
        raise InputError('neither --image-size nor --any-size was given; say for which images the file is')
    return [*sizes, *([None] if args.any_size else [])]


def path_of(args, size):
    name = Path(args.config or args.checkpoint).stem + ('_backbone' if args.part == 'backbone' else '')
    name += f'_{size[0]}x{size[1]}' if size else '_any'
    return Path(args.out, name + ('_int8' if args.int8 else '') + EXPORT_FORMATS[args.format])


def time_files(model, args, path, size):
    """Size, and the median seconds of PyTorch and of the file, by turns."""
    import torch

    from mmvitscale.export import ExportedFile
    from mmvitscale.profiling.benchmark import times

    backbone = model.backbone
    stem = getattr(backbone.patch_embed, 'conv1', None) or backbone.patch_embed.proj
    image = torch.rand(args.batch_size if size else 1, stem.in_channels, *(size or (512, 512)))
    file = ExportedFile(path)
    network = (lambda: model.extract_feat(image)) if args.part == 'backbone' else (lambda: model(image, mode='tensor'))
    with torch.inference_mode():
        measured = times(dict(PyTorch=network, file=lambda: file(image)), args.time)
    return tuple(image.shape[2:]), {name: statistics.median(seconds) for name, seconds in measured.items()}


def main(args):
    import torch
    from mmengine.logging import MMLogger

    from mmvitscale.export import ExportRequest, about_model, export_model, is_exported
    from mmvitscale.inference import load_model
    from mmvitscale.inference.calibration_images import training_images

    sizes = list(dict.fromkeys(sizes_of(args)))  # 64 and 64x64 are one file
    for name in ('batch_size', 'int8', 'time'):
        if getattr(args, name) < (name == 'batch_size'):
            raise InputError(f'--{name.replace("_", "-")} {getattr(args, name)} found, but it is a positive number')
    check_writable(args.out)
    paths = [path_of(args, size) for size in sizes]
    existing = [path for path in paths if path.exists()]
    if existing and not args.overwrite:
        raise InputError(f'{existing[0]} exists; give another --out, or --overwrite to replace it')
    MMLogger.get_instance('export', log_level='WARNING')
    if is_exported(args.checkpoint):
        raise InputError(f'{args.checkpoint} is exported already; give the checkpoint')
    cfg = config_of(args.config, args.checkpoint, args.cfg_options)
    model, content = load_model(cfg, args.checkpoint)
    model = model.cpu()
    about = about_model(model, content, args.checkpoint)
    for size, path in zip(sizes, paths):
        images = training_images(cfg, model, args.int8, size, args.batch_size) if args.int8 else ()
        request = ExportRequest(args.format, args.part, size, args.batch_size, about, images)
        difference = export_model(model, request, path)
        megabytes = sum(part.stat().st_size for part in (path, path.with_suffix('.bin')) if part.is_file()) / 1e6
        print(f'{path}  {megabytes:.1f} MB, differs from PyTorch by {difference:.1e} of the largest value')
        if args.time:
            shape, seconds = time_files(model, args, path, size)
            print(
                f'  {shape[0]}x{shape[1]}, {torch.get_num_threads()} threads, median of {args.time}: PyTorch '
                f'{1e3 * seconds["PyTorch"]:.1f} ms, file {1e3 * seconds["file"]:.1f} ms, ratio '
                f'{seconds["PyTorch"] / seconds["file"]:.2f}'
            )


if __name__ == '__main__':
    run_command(parse_args, main)
