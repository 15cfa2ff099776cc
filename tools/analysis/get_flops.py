"""Count the parameters and multiply-adds of a config's model, stage by stage: backbone, neck and, where they run on features
alone, heads. Nothing is trained or loaded, and no memory is needed, whatever the size."""

import argparse

from mmvitscale.cli import ConfigOptions, run_command, save_json
from mmvitscale.errors import InputError


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--image-size',
        type=int,
        nargs='+',
        default=[512],
        metavar='N',
        help='side of the image, or height and width, in pixels (default 512)',
    )
    parser.add_argument('--json', metavar='F', help='write the numbers there, too')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='override the config')
    return parser.parse_args()


def count(cfg, height, width):
    """The parts of the config's model, the whole last."""
    import torch
    from mmengine.registry import MODELS, init_default_scope

    from mmvitscale.checkpoints.loading import backbones_of
    from mmvitscale.config.runtime import check_packages
    from mmvitscale.config.view import ConfigView
    from mmvitscale.profiling.flops import count_backbone, count_module

    check_packages(cfg)
    init_default_scope(ConfigView(cfg).scope)
    cfg.model.pop('pretrained', None)
    with torch.device('meta'):
        model = MODELS.build(cfg.model).eval()
        if not backbones_of(model) or not hasattr(model, 'backbone'):
            raise InputError(f'{cfg.filename} has no backbone of mmvitscale; give the config of a SwinV2, a DeepViT or a ViT')
        parts, features = count_backbone(model.backbone, height, width)
        for name, module in model.named_children():
            if name in ('backbone', 'data_preprocessor') or not sum(p.numel() for p in module.parameters()):
                continue
            part, found = count_module(name, module, features)
            parts.append(part)
            features = found if name == 'neck' and found is not None else features
    return parts, sum(p.numel() for p in model.parameters())


def main(args):
    from mmvitscale.config.loading import load_config

    if len(args.image_size) > 2 or min(args.image_size) < 1:
        raise InputError(
            f'--image-size {" ".join(map(str, args.image_size))} found, but it is one side, or height and width, in pixels'
        )
    height, width = args.image_size[0], args.image_size[-1]
    parts, parameters = count(load_config(args.config, args.cfg_options), height, width)
    print(f'{"":24} {"parameters":>14} {"multiply-adds":>16}')
    for part in parts:
        adds = '-' if part.multiply_adds is None else f'{part.multiply_adds / 1e9:.3f}G'
        print(f'{part.name:24} {part.parameters / 1e6:13.3f}M {adds:>16}')
    print(f'{"model":24} {parameters / 1e6:13.3f}M   (image of {height} x {width}; -: does not run on features alone)')
    if args.json:
        content = dict(height=height, width=width, parameters=parameters, parts=[vars(part) for part in parts])
        save_json(content, args.json)


if __name__ == '__main__':
    run_command(parse_args, main)
