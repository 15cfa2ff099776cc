"""Re-estimate Re-attention's statistics on images, without labels and without changing any other weight (precise BatchNorm):
for an official checkpoint at another resolution, or, with several sizes, to measure how they depend on the number of tokens."""

import argparse
from collections import OrderedDict

from mmvitscale.cli import ConfigOptions, add_model, config_of, parse_model_args, run_command, save_figure, save_json
from mmvitscale.errors import InputError
from mmvitscale.utils.atomic_write import check_writable


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add_model(parser, 'checkpoint file of a DeepViT')
    parser.add_argument('image', help='image, or folder of images')
    parser.add_argument(
        '--out', required=True, metavar='D', help='folder of recalibrated.pth, exponents.json and exponents.png'
    )
    parser.add_argument(
        '--image-size',
        type=int,
        nargs='+',
        metavar='S',
        help="short sides that the images are resized to, in pixels (default: as the config's test does)",
    )
    parser.add_argument('--limit', type=int, default=256, metavar='N', help='images to look at, at most (default 256)')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='override the config')
    return parse_model_args(parser)


def record(args, size):
    """The variances of all images at a size, and the model."""
    from mmvitscale import inference
    from mmvitscale.analysis.map_variance import recorded_variances
    from mmvitscale.engine import experiments

    cfg = config_of(args.config, args.checkpoint, args.cfg_options)
    if size is not None:
        experiments.use_test_side(cfg, size)
    predictor = inference.build_predictor(cfg, args.checkpoint)
    images = inference.list_images(args.image, predictor.read_image.suffixes)[: args.limit]
    with recorded_variances(predictor.model) as variances:
        for path in images:
            predictor(path)
    return predictor.model, variances, len(images)


def short(name):
    """``blocks.5`` of a module's name."""
    return name.removeprefix('backbone.').removesuffix('.attn')


def draw(means, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5))
    axes = figure.subplots(1, 2)
    for name, of_size in means.items():
        tokens = list(of_size)
        (line,) = axes[0].plot(tokens, [float(var.mean()) for var in of_size.values()], marker='o', ms=3, label=short(name))
        for points in zip(*(var.tolist() for var in of_size.values())):
            axes[0].plot(tokens, points, color=line.get_color(), alpha=0.25, lw=0.8)
    axes[0].set(xscale='log', yscale='log', xlabel='tokens', ylabel='variance of the mixed maps (mean, and each head)')
    sizes = sorted({tokens for of_size in means.values() for tokens in of_size})
    axes[0].set_xticks(sizes, sizes)
    axes[0].minorticks_off()
    axes[0].legend(fontsize=7)
    exponents = {short(name): slopes(of_size) for name, of_size in means.items()}
    axes[1].boxplot([list(values) for values in exponents.values()])
    axes[1].set_xticks(range(1, len(exponents) + 1), list(exponents), rotation=90, fontsize=7)
    axes[1].set(ylabel='exponent of the heads: variance ~ tokens ^ -p')
    for each in axes:
        each.grid(alpha=0.3)
    figure.tight_layout()
    save_figure(figure, path)


def slopes(of_size):
    """p of each head, a straight line through the logarithms."""
    import numpy as np

    tokens = np.log(list(of_size))
    return [float(-np.polyfit(tokens, np.log(points), 1)[0]) for points in zip(*(var.tolist() for var in of_size.values()))]


def main(args):
    from mmvitscale.analysis.map_variance import means_of, re_attentions_of, recalibrate
    from mmvitscale.checkpoints.io import read_checkpoint, write_checkpoint

    if args.limit < 1:
        raise InputError(f'--limit {args.limit} found, but it is 1 or more')
    out, merged = check_writable(args.out), {}
    for size in args.image_size or [None]:
        model, variances, images = record(args, size)
        for name, records in variances.items():
            merged.setdefault(name, []).extend(records)
    before = {name: module.var_norm.running_var.clone() for name, module in re_attentions_of(model).items()}
    recalibrate(model, merged)
    content = read_checkpoint(args.checkpoint)
    # All that the model is now: the file fits it exactly, so nothing else has changed.
    write_checkpoint(out / 'recalibrated.pth', dict(state_dict=OrderedDict(model.state_dict()), meta=content.get('meta') or {}))
    means = {name: means_of(records) for name, records in merged.items()}
    sizes = sorted({tokens for of_size in means.values() for tokens in of_size})
    print(f'{images} images, {", ".join(map(str, sizes))} tokens')
    for name, module in re_attentions_of(model).items():
        change = (module.var_norm.running_var / before[name]).tolist()
        print(
            f'{name.removeprefix("backbone."):16} kept for {module.token_law.trained_tokens} tokens; variance x '
            f'{", ".join(f"{value:.2f}" for value in change)}'
            + (f'; exponents {", ".join(f"{p:.2f}" for p in slopes(means[name]))}' if len(means[name]) > 1 else '')
        )
    if len(sizes) > 1:
        several = {name: of_size for name, of_size in means.items() if len(of_size) > 1}
        content = {
            name: dict(tokens=list(of_size), variance=[var.tolist() for var in of_size.values()], exponents=slopes(of_size))
            for name, of_size in several.items()
        }
        save_json(content, out / 'exponents.json')
        draw(several, out / 'exponents.png')
        print(f'{out / "exponents.json"} and exponents.png')
    print(out / 'recalibrated.pth')


if __name__ == '__main__':
    run_command(parse_args, main)
