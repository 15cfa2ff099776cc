"""Draw the curves of one or several trainings, and print their losses, metrics, speed and memory. Parts of an interrupted run
are joined."""

import argparse
import math
import sys
from pathlib import Path
from statistics import median

from mmvitscale.analysis.figure_text import literal
from mmvitscale.analysis.logs import read_log
from mmvitscale.cli import run_command, save_figure, save_json
from mmvitscale.errors import InputError
from mmvitscale.utils.atomic_write import check_writable


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', nargs='+', help='work folders of trainings')
    parser.add_argument(
        '--keys',
        nargs='+',
        metavar='NAME',
        help='what to draw (default: loss, learning rate, and all metrics of validation but those of single classes)',
    )
    parser.add_argument('--out', required=True, metavar='D', help='folder of curves.png and logs.json')
    return parser.parse_args()


def default_keys(log):
    metrics = [name for name in log.names(training=False) if not name.endswith('time') and '/layer_' not in name]
    return [name for name in ('loss', 'lr') if name in log.names()] + metrics


def finite(values):
    return [value for value in values if math.isfinite(value)]


def summary(log):
    """Name -> what is printed of it."""
    found = dict(iterations=max(log.training, default=0))
    for name in ('time', 'data_time', 'memory'):  # of an iteration of training; validation logs its own times
        values = finite(record[name] for record in log.training.values() if name in record)
        if values:
            found[name] = median(values)
    if log.curve('loss')[1]:
        losses = log.curve('loss')[1]
        found.update(first_loss=losses[0], last_loss=losses[-1])
    for name in (key for key in default_keys(log) if key not in ('loss', 'lr')):
        values = log.curve(name)[1]
        known = finite(values) or [math.nan]
        found[name] = dict(last=values[-1], highest=max(known), lowest=min(known))
    return found


def draw(logs, keys, path):
    from matplotlib.figure import Figure

    columns = min(2, len(keys))
    rows = -(-len(keys) // columns)
    figure = Figure(figsize=(5.5 * columns, 3.2 * rows))
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, key in zip(grid, keys):
        for label, log in logs.items():
            axes.plot(*log.curve(key), marker='o' if len(log.curve(key)[0]) < 30 else None, ms=3, label=literal(label))
        axes.set(xlabel='iteration or epoch', title=literal(key))
        axes.grid(alpha=0.3)
    for axes in list(grid):
        axes.axis('off')
    figure.axes[0].legend(fontsize=8)
    figure.tight_layout()
    save_figure(figure, path)


def main(args):
    out = check_writable(args.out)
    logs = {folder: read_log(Path(folder)) for folder in args.work_dir}
    known = list(dict.fromkeys(name for log in logs.values() for name in [*log.names(), *log.names(training=False)]))
    wrong = [key for key in args.keys or [] if key not in known]
    if wrong:
        raise InputError(f'--keys {wrong[0]} found, but the logs have {", ".join(known)}')
    keys = args.keys or list(dict.fromkeys(key for log in logs.values() for key in default_keys(log)))
    for folder, log in logs.items():
        for note in log.notes:
            print(f'note: {note}', file=sys.stderr)
        print(folder)
        for name, value in summary(log).items():
            if isinstance(value, dict):
                value = ', '.join(f'{key} {number:.4g}' for key, number in value.items())
            print(f'  {name:24} {value if isinstance(value, (int, str)) else format(value, ".4g")}')
    save_json({folder: summary(log) for folder, log in logs.items()}, out / 'logs.json')
    if keys:
        draw(logs, keys, out / 'curves.png')
    print(f'{out / "curves.png"}, logs.json' if keys else f'{out / "logs.json"}; the logs hold no loss or metric to draw')


if __name__ == '__main__':
    run_command(parse_args, main)
