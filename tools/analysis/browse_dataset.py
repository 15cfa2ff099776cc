"""Draw what the model is trained on: images of a config's data set after its pipeline, augmentation included, with their
ground truth. Any task."""

import argparse

from mmvitscale.cli import ConfigOptions, run_command
from mmvitscale.errors import InputError
from mmvitscale.utils.atomic_write import check_writable


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--out', required=True, metavar='D', help='folder of the pictures')
    parser.add_argument('--split', choices=['train', 'val', 'test'], default='train')
    parser.add_argument('--number', type=int, default=16, metavar='N', help='how many, spread over the data (default 16)')
    parser.add_argument('--seed', type=int, default=0, help='of the augmentation (default 0)')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='override the config')
    return parser.parse_args()


def truth_of(sample):
    """The ground truth where the visualizer looks for it, boxes as plain numbers."""
    if 'gt_instances' in sample and hasattr(sample.gt_instances.bboxes, 'tensor'):
        sample.gt_instances.bboxes = sample.gt_instances.bboxes.tensor
    return sample


def picture_of(inputs, reader):
    """(C, H, W) that goes into the data preprocessor -> (H, W, 3) uint8 BGR."""
    import numpy as np

    image = inputs.permute(1, 2, 0).numpy()
    return reader.from_array(np.ascontiguousarray(image), 'an image')[1]


def main(args):
    import numpy as np
    from mmengine.registry import DATASETS, init_default_scope

    from mmvitscale.config.loading import load_config
    from mmvitscale.config.runtime import check_packages
    from mmvitscale.config.view import ConfigView, plain_datasets
    from mmvitscale.datasets.checks import check_datasets
    from mmvitscale.inference import Visualizer, write_picture
    from mmvitscale.inference.images import ImageReader

    if args.number < 1:
        raise InputError(f'--number {args.number} found, but it is 1 or more')
    cfg = load_config(args.config, args.cfg_options)
    loader = cfg.get(f'{args.split}_dataloader')
    if not loader:
        raise InputError(f'{cfg.filename} has no {args.split}_dataloader; choose another --split')
    check_packages(cfg)
    check_datasets(cfg, (args.split,))
    init_default_scope(ConfigView(cfg).scope)
    out = check_writable(args.out)
    np.random.seed(args.seed)
    dataset = DATASETS.build(loader.dataset)
    classes = dataset.metainfo.get('classes') or []
    visualizer = Visualizer(dict(dataset.metainfo, classes=classes))
    reader = ImageReader(next(plain_datasets(loader.dataset)).get('pipeline', []))
    number = min(args.number, len(dataset))
    for i in range(number):
        index = i * len(dataset) // number
        item = dataset[index]
        sample = truth_of(item['data_samples'])
        views = item['inputs'] if isinstance(item['inputs'], (list, tuple)) else [item['inputs']]
        picture = visualizer.ground_truth(picture_of(views[0], reader), sample)
        write_picture(out / f'{index:06d}.png', picture)
    print(f'{number} of {len(dataset)} images of {args.split} in {out}')


if __name__ == '__main__':
    run_command(parse_args, main)
