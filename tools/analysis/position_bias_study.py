"""Table 1 of SwinV2 in small: train table, linear and log-CPB at one window on the synthetic mini dataset, test at larger
windows and images, without and with fine-tuning, over seeds. Goes on where an earlier call stopped."""

import argparse
from pathlib import Path

from mmvitscale.cli import run_command, save_figure, save_json
from mmvitscale.errors import InputError
from mmvitscale.utils.atomic_write import check_writable

CONFIG = 'swinv2_upernet_mini_96_w6'
BIASES = ('table', 'linear_cpb', 'log_cpb')
SPLITS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--out', default='work_dirs/position_bias_study', help='folder of runs, results.json and results.png')
    parser.add_argument('--data', default='data/mini', help='scenes of tools/make_mini_dataset.py')
    parser.add_argument('--biases', nargs='+', choices=BIASES, default=list(BIASES))
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument(
        '--factors', type=float, nargs='+', default=[1.0, 1.5, 2.0, 3.0], help='windows and images, times those trained'
    )
    parser.add_argument('--iters', type=int, default=800, help='of the training')
    parser.add_argument('--tune-iters', type=int, default=60, help='of the fine-tuning at each larger window')
    return parser.parse_args()


def length(iters, warmup):
    """Options of a training of so many iterations, tested once at its end."""
    from mmvitscale.engine import experiments

    return {**experiments.length_options(iters, warmup), 'train_cfg.val_interval': iters}


def options_at(cfg, factor):
    """Options that train and test at ``factor`` times the config's window and image."""
    from mmvitscale.engine import experiments

    side = round(cfg.side * factor)
    windows = experiments.grown(list(cfg.model.backbone.window_size), factor)
    return {
        'model.backbone.window_size': windows,
        'model.data_preprocessor.size': (side, side),
        'train_dataloader.dataset.pipeline.2.scale': (side, side),
        'train_dataloader.dataset.pipeline.2.ratio_range': (1.0, 1.2),  # the size that is tested, nearly
        'train_dataloader.dataset.pipeline.3.crop_size': (side, side),
        **{f'{split}.dataset.pipeline.1.scale': (side, side) for split in SPLITS[1:]},
    }


def tested(options, factor, checkpoint, folder):
    """mIoU at a window, from an earlier call where there is one."""
    from mmvitscale.config.loading import load_config
    from mmvitscale.engine import experiments

    cfg = load_config(CONFIG, {key: value for key, value in options.items() if '.pipeline.' not in key})
    own = load_config(CONFIG)
    cfg.model.backbone.window_size = experiments.grown(list(own.model.backbone.window_size), factor)
    experiments.use_test_side(cfg, round(cfg.side * factor))
    known = folder / f'test_{named(factor)}.json'
    return experiments.main_metric(experiments.evaluate_once(cfg, checkpoint, folder / 'tests', known))[1]


def named(factor):
    """``1.5x``, with all of its digits."""
    return f'{factor!r}'.removesuffix('.0') + 'x'


def measure(args, bias, seed):
    """mIoU by factor, without and with fine-tuning."""
    from mmvitscale.config.loading import load_config
    from mmvitscale.engine import experiments

    cfg, folder = load_config(CONFIG), Path(args.out, bias, f'seed{seed}')
    common = {
        'data_root': f'{args.data}/ADEChallengeData2016',
        'model.backbone.position_bias': bias,
        'randomness.seed': seed,
    }
    trained = experiments.train_once(CONFIG, folder / 'trained', {**common, **length(args.iters, 50)})
    plain, tuned = {}, {}
    for factor in args.factors:
        plain[factor] = tested(common, factor, trained, folder)
        if factor != 1:
            options = {
                **common,
                **length(args.tune_iters, 10),
                **options_at(cfg, factor),
                'optim_wrapper.optimizer.lr': 2e-4,
                'load_from': str(trained),
            }
            run = folder / f'tuned_{named(factor)}'
            tuned[factor] = tested(common, factor, experiments.train_once(CONFIG, run, options), run)
        print(
            f'{bias:10} seed {seed}  {factor:g}x  {plain[factor]:6.2f}'
            + (f'  fine-tuned {tuned[factor]:6.2f}' if factor in tuned else ''),
            flush=True,
        )
    return dict(plain=plain, tuned=tuned)


def draw(results, factors, path):
    from matplotlib.figure import Figure

    from mmvitscale.engine import experiments

    figure = Figure(figsize=(10, 4))
    for axes, kind in zip(figure.subplots(1, 2, sharey=True), ('plain', 'tuned')):
        for bias, runs in results.items():
            shown = [factor for factor in factors if factor in runs[0][kind]]
            values = [[run[kind][factor] for run in runs] for factor in shown]
            means = [experiments.mean(value) for value in values]
            spreads = [experiments.stdev(value) if len(value) > 1 else 0 for value in values]
            axes.errorbar(shown, means, spreads, marker='o', capsize=3, label=bias)
        axes.set(
            xlabel='window and image, times those trained',
            ylabel='mIoU',
            title={'plain': 'without fine-tuning', 'tuned': 'with fine-tuning'}[kind],
        )
        axes.set_xticks(factors, [f'{factor:g}x' for factor in factors])
        axes.grid(alpha=0.3)
        axes.legend()
    save_figure(figure, path)


def main(args):
    from mmvitscale.engine import experiments

    if not args.factors or min(args.factors) < 1 or min(args.iters, args.tune_iters) < 2:
        raise InputError(
            f'--factors {args.factors}, --iters {args.iters} and --tune-iters {args.tune_iters} found, but they are '
            'at least 1, 2 and 2'
        )
    out = check_writable(args.out)
    # What is given twice is one thing.
    args.seeds, args.biases, args.factors = (list(dict.fromkeys(given)) for given in (args.seeds, args.biases, args.factors))
    results = {bias: [] for bias in args.biases}
    for seed in args.seeds:
        for bias in args.biases:
            results[bias].append(measure(args, bias, seed))
    print(f'\nmIoU over {len(args.seeds)} seeds: mean +- standard deviation, without / with fine-tuning')
    print(' ' * 12 + ''.join(f'{f"{factor:g}x":>32}' for factor in args.factors))
    for bias, runs in results.items():
        cells = [
            experiments.describe([run['plain'][factor] for run in runs])
            + (f' / {experiments.describe([run["tuned"][factor] for run in runs])}' if factor in runs[0]['tuned'] else '')
            for factor in args.factors
        ]
        print(f'{bias:12}' + ''.join(f'{cell:>32}' for cell in cells))
    save_json(results, out / 'results.json')
    draw(results, args.factors, out / 'results.png')
    print(f'{out / "results.json"}, {out / "results.png"}')


if __name__ == '__main__':
    run_command(parse_args, main)
