"""Test a DeepViT on images of other sizes than it was trained on, whole and in windows of the trained crop, with each kind of
Re-attention's statistics, without training (several checkpoints, such as those of several seeds: mean and deviation)."""

import argparse

from mmvitscale.cli import ConfigOptions, distinct_labels, run_command, save_json
from mmvitscale.errors import InputError
from mmvitscale.utils.atomic_write import check_writable
from mmvitscale.utils.choices import STATISTICS


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file of a DeepViT for segmentation')
    parser.add_argument('checkpoints', nargs='+', help='its checkpoint files')
    parser.add_argument(
        '--image-size', type=int, nargs='+', metavar='S', help='short sides that test images are resized to, in pixels'
    )
    parser.add_argument(
        '--data-roots',
        nargs='+',
        metavar='D',
        help='instead of sizes: data sets with images of each size, laid out as that of the config',
    )
    parser.add_argument(
        '--crop',
        type=int,
        nargs=2,
        default=(128, 64),
        metavar=('C', 'STRIDE'),
        help='of the windows, in pixels (default: 128 64)',
    )
    parser.add_argument('--statistics', nargs='+', choices=STATISTICS, default=list(STATISTICS), help='kinds to test')
    parser.add_argument('--image-share', type=float, default=1.0, help='reatten_image_share of image (default: 1)')
    parser.add_argument('--metric', help='which of the metrics of the test')
    parser.add_argument('--out', required=True, metavar='D', help='folder of token_transfer.json')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='override the config')
    return parser.parse_args()


def evaluate(args, place, way, checkpoint, out):
    """One number. way: 'slid', or a kind of statistics."""
    from mmvitscale.config.loading import load_test_config
    from mmvitscale.config.view import plain_datasets
    from mmvitscale.engine import experiments
    from mmvitscale.registry import type_name

    cfg = load_test_config(args.config, args.cfg_options)
    if 'DeepViT' not in type_name(cfg.model.get('backbone') or {}) or 'test_cfg' not in cfg.model:
        raise InputError(f'{args.config} found, but give the config of a DeepViT for segmentation')
    if isinstance(place, int):
        experiments.use_test_side(cfg, place)
    else:
        dataset, *others = plain_datasets(cfg.test_dataloader.dataset)
        if others:
            raise InputError(f'--data-roots found, but {args.config} tests on {1 + len(others)} data sets; give --image-size')
        dataset.data_root = place
    cfg.model.test_cfg = dict(mode='whole')
    if way == 'slid':
        crop, stride = args.crop
        cfg.model.test_cfg = dict(mode='slide', crop_size=(crop, crop), stride=(stride, stride))
    else:
        cfg.model.backbone.update(reatten_statistics=way, reatten_image_share=args.image_share)
    return experiments.main_metric(experiments.evaluate(cfg, checkpoint, out / 'runs'), args.metric)


def main(args):
    from mmvitscale.engine import experiments

    if bool(args.image_size) == bool(args.data_roots):
        raise InputError('give either --image-size or --data-roots')
    out, places, found = check_writable(args.out), list(dict.fromkeys(args.image_size or args.data_roots)), {}
    labels = [f'{place} px' for place in places] if args.image_size else distinct_labels(places)
    print(f'{"":10}', *(f'{label:>16}' for label in labels), flush=True)
    for way in ('slid', *args.statistics):
        found[way] = {}
        for place, label in zip(places, labels):
            results = [evaluate(args, place, way, path, out) for path in args.checkpoints]
            found[way][label] = [value for _, value in results]
        print(f'{way:10}', *(f'{experiments.describe(values):>16}' for values in found[way].values()), flush=True)
    save_json(
        dict(config=args.config, checkpoints=args.checkpoints, metric=results[0][0], results=found), out / 'token_transfer.json'
    )
    print(f'{results[0][0]} of {len(args.checkpoints)} checkpoints; {out / "token_transfer.json"}')


if __name__ == '__main__':
    run_command(parse_args, main)
