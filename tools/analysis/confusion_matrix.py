"""Count which classes a checkpoint takes for which on the config's test set: pixels, objects or images, whatever the
task."""

import argparse

from mmvitscale.cli import ConfigOptions, add_model, config_of, parse_model_args, run_command, save_figure, save_json
from mmvitscale.utils.atomic_write import check_writable


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add_model(parser)
    parser.add_argument('--out', required=True, metavar='D', help='folder of confusion_matrix.png and confusion_matrix.json')
    parser.add_argument('--limit', type=int, metavar='N', help='images, spread evenly over the set (default: all)')
    parser.add_argument('--score-thr', type=float, default=0.3, help='count objects of at least this score (default 0.3)')
    parser.add_argument('--iou-thr', type=float, default=0.5, help='overlap from which on a box covers an object (default 0.5)')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='override the config')
    return parse_model_args(parser)


def main(args):
    from mmvitscale.analysis.confusion import ConfusionMatrix, draw_confusion
    from mmvitscale.datasets.checks import check_datasets
    from mmvitscale.inference import load_model
    from mmvitscale.inference.evaluated_images import EvaluatedImages
    from mmvitscale.inference.progress import progress_bar

    cfg = config_of(args.config, args.checkpoint, args.cfg_options)
    out = check_writable(args.out)
    check_datasets(cfg, ('test',))
    images = EvaluatedImages(cfg, load_model(cfg, args.checkpoint)[0], args.limit)
    matrix = ConfusionMatrix(images.dataset_meta.get('classes') or (), args.score_thr, args.iou_thr)
    with progress_bar(len(images)) as advance:
        for _, _, sample in images:
            matrix.add(sample)
            advance()
    print(f'{"class":24} {matrix.unit:>12}  recall  precision  IoU')
    for entry in matrix.per_class():
        numbers = ('-' if entry[key] is None else f'{100 * entry[key]:.1f}' for key in ('recall', 'precision', 'iou'))
        print('{:24} {:12d} {:>7} {:>10} {:>5}'.format(entry['name'], entry['count'], *numbers))
    content = dict(unit=matrix.unit, names=matrix.names, counts=matrix.counts.tolist(), per_class=matrix.per_class())
    save_json(content, out / 'confusion_matrix.json')
    save_figure(draw_confusion(matrix), out / 'confusion_matrix.png')
    print(f'{out / "confusion_matrix.png"}, confusion_matrix.json')


if __name__ == '__main__':
    run_command(parse_args, main)
