"""The chain in small, on the synthetic mini dataset: masked pretraining at 96 pixels, window 6, then segmentation at 192
pixels, window 12, against the same fine-tuning from scratch. Goes on where an earlier call stopped."""

import argparse
import json
import time
from pathlib import Path

from mmvitscale.analysis.logs import read_log
from mmvitscale.cli import run_command, save_json
from mmvitscale.errors import InputError, some_of
from mmvitscale.utils.atomic_write import check_writable

PRETRAIN, TUNE = 'swinv2_simmim_mini_96_w6', 'swinv2_upernet_mini_192_w12'


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--out', default='work_dirs/pretraining_chain', help='folder of runs, results.json and pictures')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='of the fine-tuning')
    parser.add_argument('--scenes', type=int, default=512, help='scenes that are pretrained on, without labels')
    parser.add_argument('--labelled', type=int, default=64, help='scenes that are fine-tuned on')
    parser.add_argument('--pretrain-iters', type=int, default=1000)
    parser.add_argument('--tune-iters', type=int, default=400)
    return parser.parse_args()


def scenes(folder, train, seed):
    from mmvitscale.datasets import mini

    wanted, marker = dict(train=train, val=32, seed=seed), folder / 'mini.json'
    if not marker.is_file():
        mini.write_dataset(folder, **wanted)
    found = json.loads(marker.read_text())
    changed = [f'{key} {found.get(key)}, not {value}' for key, value in wanted.items() if found.get(key) != value]
    if changed:
        raise InputError(f'{folder} holds scenes with {some_of(changed)}; give another --out, or remove the folder')
    return folder / 'ADEChallengeData2016'


def pretrained(args, out):
    """Checkpoint, and by how much the loss fell."""
    import cv2
    import numpy as np

    from mmvitscale import inference
    from mmvitscale.config.loading import load_test_config
    from mmvitscale.engine import experiments

    data = scenes(out / 'unlabelled', args.scenes, 1)
    options = {
        'data_root': data,
        **experiments.length_options(args.pretrain_iters, 50),
        'default_hooks.logger.interval': min(50, max(args.pretrain_iters // 4, 1)),
    }
    checkpoint = experiments.train_once(PRETRAIN, out / 'pretrained', options)
    losses = read_log(out / 'pretrained').curve('loss')[1]
    cfg = load_test_config(PRETRAIN)
    reconstructor = inference.Reconstructor(cfg, str(checkpoint))
    images = inference.list_images(str(scenes(out / 'labelled', args.labelled, 0) / 'images/validation'))[:6]
    rows = [cv2.resize(reconstructor(path)[0], None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST) for path in images]
    inference.write_picture(out / 'reconstructions.png', np.vstack(rows))
    return checkpoint, losses


def fine_tuned(args, out, seed, checkpoint):
    """mIoU after fine-tuning from the checkpoint, or from scratch."""
    from mmvitscale.config.loading import load_config
    from mmvitscale.engine import experiments

    data = scenes(out / 'labelled', args.labelled, 0)
    work_dir = out / f'{"tuned" if checkpoint else "scratch"}_seed{seed}'
    options = {
        'data_root': data,
        'randomness.seed': seed,
        **experiments.length_options(args.tune_iters, 20),
        'train_cfg.val_interval': args.tune_iters,
    }
    if checkpoint:
        options.update({'model.backbone.init_cfg.type': 'Pretrained', 'model.backbone.init_cfg.checkpoint': checkpoint})
    trained = experiments.train_once(TUNE, work_dir, options)
    cfg = load_config(TUNE, {'data_root': str(data)})
    return experiments.evaluate_once(cfg, trained, work_dir / 'test', work_dir / 'test.json')['mIoU']


def main(args):
    from mmvitscale.engine import experiments

    if min(args.pretrain_iters, args.tune_iters) < 4 or not args.seeds:
        raise InputError(
            f'--pretrain-iters {args.pretrain_iters} and --tune-iters {args.tune_iters} found, but they are at least 4'
        )
    args.seeds = list(dict.fromkeys(args.seeds))
    out, start = check_writable(Path(args.out).absolute()), time.monotonic()
    checkpoint, losses = pretrained(args, out)
    print(
        f'masked pretraining: loss {losses[0]:.4f} -> {losses[-1]:.4f}, {losses[-1] / losses[0]:.2f} of the first',
        flush=True,
    )
    results = dict(losses=losses, tuned=[], scratch=[])
    for seed in args.seeds:
        for kind, weights in (('tuned', checkpoint), ('scratch', None)):
            results[kind].append(fine_tuned(args, out, seed, weights))
        print(
            f'seed {seed}: mIoU {results["tuned"][-1]:.2f} after pretraining, {results["scratch"][-1]:.2f} from scratch',
            flush=True,
        )
    print(
        f'mIoU over {len(args.seeds)} seeds: {experiments.describe(results["tuned"])} after pretraining, '
        f'{experiments.describe(results["scratch"])} from scratch'
    )
    save_json(results, out / 'results.json')
    print(f'{out / "results.json"}, {out / "reconstructions.png"}; {(time.monotonic() - start) / 60:.1f} minutes')


if __name__ == '__main__':
    run_command(parse_args, main)
