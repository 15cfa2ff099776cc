"""Measure attention similarity (attention collapse): how similar the attention maps, features and heads of a backbone's blocks
are, and how far the blocks look, on an image or a folder of images; of several models side by side (DeepViT, section 3.1,
figures 1 and 3).

Blocks of a SwinV2 are compared where their windows are the same: shifted ones with shifted ones, stage by stage.
"""

import argparse

from mmvitscale.analysis.figure_text import literal
from mmvitscale.cli import add_models, models_of, parse_model_args, run_command, save_figure, save_json
from mmvitscale.errors import InputError
from mmvitscale.utils.atomic_write import check_writable

CURVES = {
    'to_before': 'attention maps: cosine to the block before',
    'features_to_last': 'features: cosine to the last block',
    'head_diversity': 'diversity of heads (1 - cosine)',
    'attention_distance': 'mean attention distance in tokens',
}


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add_models(parser)
    parser.add_argument('image', help='image, or folder of images')
    parser.add_argument('--out', required=True, metavar='D', help='folder of similarity.json, similarity.png and curves.png')
    parser.add_argument('--layers', nargs='+', type=int, metavar='I', help='blocks to look at, counted from 0 (default all)')
    parser.add_argument('--threshold', type=float, default=0.9, help='similar means above this (default 0.9)')
    parser.add_argument('--limit', type=int, default=32, metavar='N', help='images to look at, at most (default 32)')
    return parse_model_args(parser)


def measure(model, args):
    from mmvitscale import inference
    from mmvitscale.analysis.attention_summary import summarised_attention

    if args.limit < 1:
        raise InputError(f'--limit {args.limit} found, but it is 1 or more')
    cfg = model.load_config()
    predictor = inference.build_predictor(cfg, model.checkpoint)
    images = inference.list_images(args.image, predictor.read_image.suffixes)[: args.limit]
    with summarised_attention(predictor.model, args.layers) as summary:
        for path in images:
            predictor(path)
    if len(summary.mean('maps')) < 2:
        raise InputError('one layer found, but at least 2 are compared; give more --layers')
    return dict(config=str(cfg.filename), images=len(images), **summary.result(args.threshold))


def draw_matrices(results, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4 * len(results)))
    rows = figure.subplots(len(results), 2, squeeze=False)
    for (label, result), row in zip(results.items(), rows):
        for axes, key, title in zip(row, ('similarity', 'feature_similarity'), ('attention maps', 'features')):
            matrix = [[float('nan') if value is None else value for value in line] for line in result[key]]
            shown = axes.imshow(matrix, vmin=0, vmax=1)
            axes.set(xlabel='block', ylabel='block', title=f'{literal(label)}\ncosine of {title}')
            axes.title.set_fontsize(9)
            figure.colorbar(shown)
    figure.tight_layout()
    save_figure(figure, path)


def draw_curves(results, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7))
    for axes, (key, title) in zip(figure.subplots(2, 2).flat, CURVES.items()):
        for label, result in results.items():
            axes.plot(
                [float('nan') if value is None else value for value in result[key]], marker='o', ms=3, label=literal(label)
            )
        axes.set(xlabel='block', title=title)
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    save_figure(figure, path)


def main(args):
    out = check_writable(args.out)
    results = {model.label: measure(model, args) for model in models_of(args)}
    save_json(results, out / 'similarity.json')
    draw_matrices(results, out / 'similarity.png')
    draw_curves(results, out / 'curves.png')
    for label, result in results.items():
        print(label)
        print('block  maps to before  features to last  head diversity  distance  amplitude')
        columns = zip(*(result[key] for key in (*CURVES, 'amplitude')))
        for name, values in zip(result['names'], columns):
            cells = ('-' if value is None else f'{value:.3f}' for value in values)
            print('{:28} {:>10} {:>17} {:>15} {:>9} {:>10}'.format(name.removeprefix('backbone.'), *cells))
        mean = result['mean_similarity']  # None where no two blocks have maps of one size
        print(
            f'{result["blocks"]} blocks, {result["images"]} images: {result["collapsed_blocks"]} blocks more than '
            f'{args.threshold} like the one before; mean similarity of different blocks '
            + ('-' if mean is None else f'{mean:.4f}')
        )
    print(f'{out / "similarity.json"}, similarity.png and curves.png')


if __name__ == '__main__':
    run_command(parse_args, main)
