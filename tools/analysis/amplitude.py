"""Measure how large the activations of each block's output are, on an image or a folder of images; of several models side by
side (SwinV2, figure 2: pre-norm against post-norm)."""

import argparse
import json
from pathlib import Path
from statistics import mean

from mmengine.config import DictAction

from mmvitscale import inference
from mmvitscale.analysis.amplitude import blocks_of, recorded_amplitudes
from mmvitscale.commands import check_writable, run_command
from mmvitscale.config import load_test_config
from mmvitscale.errors import InputError


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('image', help='image, or folder of images')
    parser.add_argument('--against', nargs='+', action='append', default=[], metavar='ARG',
                        help='another model: CONFIG CKPT [KEY=VALUE ...]; may be given several times')
    parser.add_argument('--out', required=True, metavar='D', help='folder of amplitude.json and amplitude.png')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help="override the first config")
    return parser.parse_args()


def parsed(options):
    """['key=value', ...] as --cfg-options reads them."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--o', nargs='+', action=DictAction)
    return parser.parse_args(['--o', *options]).o if options else None


def measure(config, checkpoint, options, image):
    """Block -> amplitude, averaged over the images."""
    cfg = load_test_config(config, options)
    images = inference.list_images(image, inference.ImageReader(inference.pipeline_of(cfg)).suffixes)
    masked = inference.is_masked_modelling(cfg)
    predictor = (inference.Reconstructor if masked else inference.Predictor)(cfg, checkpoint)
    if not blocks_of(predictor.model):
        raise InputError(f'{config} has no backbone of mmvitscale; give the config of a SwinV2, a DeepViT or a ViT')
    with recorded_amplitudes(predictor.model) as amplitudes:
        for path in images:
            predictor.read_image(path)  # one line for what the model cannot take
            predictor(path)
    return {name: mean(values) for name, values in amplitudes.items()}


def draw(models, path):
    from matplotlib.figure import Figure
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    for checkpoint, amplitudes in models.items():
        label = '/'.join(Path(checkpoint).parts[-2:])
        axes.plot(range(1, len(amplitudes) + 1), list(amplitudes.values()), marker='o', label=label)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel='block', ylabel='root mean square of its output', yscale='log')
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches='tight')


def main():
    args = parse_args()
    if any(len(other) < 2 for other in args.against):
        raise InputError('--against wants CONFIG CKPT [KEY=VALUE ...]')
    out = check_writable(args.out)
    models = {args.checkpoint: measure(args.config, args.checkpoint, args.cfg_options, args.image)}
    for config, checkpoint, *options in args.against:
        models[checkpoint] = measure(config, checkpoint, parsed(options), args.image)
    for label, amplitudes in models.items():
        print(label)
        for i, (name, value) in enumerate(amplitudes.items(), start=1):
            print(f'{i:5d}  {name:32}  {value:10.4f}')
        print(f'  largest {max(amplitudes.values()):.3f}, largest / smallest '
              f'{max(amplitudes.values()) / max(min(amplitudes.values()), 1e-12):.1f}')
    (out / 'amplitude.json').write_text(json.dumps(models, indent=1) + '\n')
    draw(models, out / 'amplitude.png')
    print(f'{out / "amplitude.json"}, {out / "amplitude.png"}')


if __name__ == '__main__':
    run_command(main)
