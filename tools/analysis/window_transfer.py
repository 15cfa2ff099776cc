"""Run one checkpoint at many windows and resolutions without training, and draw the curve (SwinV2, Table 1).

For a SwinV2 of any task: mIoU, box AP or top-1 accuracy, whatever its config tests. Windows grow and images with them, so
that a window sees the same part of an image.
"""

import argparse
from pathlib import Path

from mmvitscale.analysis.figure_text import literal
from mmvitscale.cli import ConfigOptions, add_model, config_of, parse_model_args, run_command, save_figure, save_json
from mmvitscale.errors import InputError
from mmvitscale.utils.atomic_write import check_writable


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add_model(parser, 'checkpoint file')
    parser.add_argument(
        '--windows',
        type=int,
        nargs='+',
        metavar='W',
        help="windows of the first stage; those of the others grow with it (default: 1, 1.5, 2, 2.5 and 3 times the config's)",
    )
    parser.add_argument(
        '--image-size',
        type=int,
        nargs='+',
        metavar='S',
        help='short sides of the images in pixels, one for each window (default: grown with the window)',
    )
    parser.add_argument('--metric', help='which of the metrics of the test')
    parser.add_argument('--out', required=True, metavar='D', help='folder of window_transfer.json and window_transfer.png')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='override the config')
    return parse_model_args(parser)


def draw(points, metric, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    axes.plot([point['factor'] for point in points], [point['value'] for point in points], marker='o')
    axes.set(xlabel='window / window of the config', ylabel=literal(metric), title='without fine-tuning')
    axes.set_xticks([point['factor'] for point in points], [f'{point["factor"]:g}x\n{point["size"]} px' for point in points])
    axes.grid(alpha=0.3)
    save_figure(figure, path)


def settings(args, windows, side):
    """(factor, size) of each point."""
    first = windows[0] if isinstance(windows, (list, tuple)) else windows
    factors = [w / first for w in args.windows] if args.windows else [1, 1.5, 2, 2.5, 3]
    if min(factors) <= 0:
        raise InputError(f'--windows {args.windows} found, but a window is at least 1 token')
    if args.image_size and len(args.image_size) != len(factors):
        raise InputError(f'{len(args.image_size)} --image-size found for {len(factors)} windows; give one for each')
    return list(zip(factors, args.image_size or [round(side * factor) for factor in factors]))


def main(args):
    from mmvitscale.engine import experiments

    cfg = config_of(args.config, args.checkpoint, args.cfg_options)
    windows = cfg.model.get('backbone', {}).get('window_size')
    if not windows or not cfg.get('test_dataloader'):
        raise InputError(
            f'{cfg.filename} has {"no windows" if not windows else "no test"}; give the config of a SwinV2 that is tested'
        )
    out, points = check_writable(args.out), []
    for factor, size in settings(args, windows, experiments.test_side(cfg)):
        cfg = config_of(args.config, args.checkpoint, args.cfg_options)
        cfg.model.backbone.window_size = experiments.grown(windows, factor)
        cfg.test_windows = 'config'
        experiments.use_test_side(cfg, size)
        metrics = experiments.evaluate(cfg, args.checkpoint, Path(out, 'runs'))
        metric, value = experiments.main_metric(metrics, args.metric)
        points.append(dict(factor=factor, windows=experiments.grown(windows, factor), size=size, value=value, metrics=metrics))
        print(f'window {str(points[-1]["windows"]):>18}  {size:5d} px  {metric} {value:.2f}', flush=True)
    save_json(dict(metric=metric, points=points), out / 'window_transfer.json')
    draw(points, metric, out / 'window_transfer.png')
    print(f'{out / "window_transfer.json"}, {out / "window_transfer.png"}')


if __name__ == '__main__':
    run_command(parse_args, main)
