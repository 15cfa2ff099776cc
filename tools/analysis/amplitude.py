"""Measure how large the activations of each block's output are, on an image or a folder of images; of several models side by
side (SwinV2, figure 2: pre-norm against post-norm)."""

import argparse
from statistics import mean

from mmvitscale.analysis.figure_text import literal
from mmvitscale.cli import add_models, models_of, parse_model_args, run_command, save_figure, save_json
from mmvitscale.utils.atomic_write import check_writable


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add_models(parser)
    parser.add_argument('image', help='image, or folder of images')
    parser.add_argument('--out', required=True, metavar='D', help='folder of amplitude.json and amplitude.png')
    return parse_model_args(parser)


def measure(model, image):
    """Block -> amplitude, averaged over the images."""
    from mmvitscale import inference
    from mmvitscale.analysis.amplitude import recorded_amplitudes
    from mmvitscale.analysis.recorder import checked_blocks

    cfg = model.load_config()
    predictor = inference.build_predictor(cfg, model.checkpoint)
    images = inference.list_images(image, predictor.read_image.suffixes)
    checked_blocks(predictor.model)
    with recorded_amplitudes(predictor.model) as amplitudes:
        for path in images:
            predictor(path)
    return {name: mean(values) for name, values in amplitudes.items()}


def draw(models, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    for label, amplitudes in models.items():
        axes.plot(range(1, len(amplitudes) + 1), list(amplitudes.values()), marker='o', label=literal(label))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel='block', ylabel='root mean square of its output', yscale='log')
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)


def main(args):
    out = check_writable(args.out)
    models = {model.label: measure(model, args.image) for model in models_of(args)}
    for label, amplitudes in models.items():
        print(label)
        for i, (name, value) in enumerate(amplitudes.items(), start=1):
            print(f'{i:5d}  {name:32}  {value:10.4f}')
        print(
            f'  largest {max(amplitudes.values()):.3f}, largest / smallest '
            f'{max(amplitudes.values()) / max(min(amplitudes.values()), 1e-12):.1f}'
        )
    save_json(models, out / 'amplitude.json')
    draw(models, out / 'amplitude.png')
    print(f'{out / "amplitude.json"}, {out / "amplitude.png"}')


if __name__ == '__main__':
    run_command(parse_args, main)
