"""Repeat the step at which a training stopped because its loss was NaN or Inf, and show what came out of every layer."""

import argparse
from contextlib import nullcontext

from mmvitscale.cli import ConfigOptions, run_command
from mmvitscale.errors import InputError, some_of

PRECISIONS = ('float64', 'float32', 'bfloat16', 'float16')


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('kept', help='file that the training left in <work dir>/non_finite')
    parser.add_argument(
        '--precision',
        choices=PRECISIONS,
        default='float32',
        help='float64 and float32 throughout, the others as mixed precision (default float32)',
    )
    parser.add_argument('--top', type=int, default=10, metavar='N', help='show so many of the largest layers (default 10)')
    parser.add_argument('--all', action='store_true', help='show every layer, in the order in which they ended')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='override the config')
    return parser.parse_args()


def read_kept(path):
    """The batch, the meta and the whole content of a file."""
    from mmvitscale.analysis.nonfinite import unpack
    from mmvitscale.checkpoints.io import read_checkpoint

    content = read_checkpoint(path)
    try:
        return unpack(content['batch']), dict(content['meta']), content
    except (KeyError, TypeError, ValueError, AttributeError, ImportError) as error:
        raise InputError(
            f'{path} holds no batch of a training ({type(error).__name__}: {error}); give a file that one has '
            'left in <work dir>/non_finite'
        ) from error


def replay(cfg, path, precision):
    """(meta, trace) of the step, with the weights and the draws of then."""
    import torch
    from mmengine.device import get_device
    from mmengine.registry import MODELS, init_default_scope

    from mmvitscale.analysis.nonfinite import trace_losses
    from mmvitscale.checkpoints.loading import adapt_checkpoint
    from mmvitscale.config.runtime import check_packages
    from mmvitscale.config.view import ConfigView
    from mmvitscale.datasets.seeded_batches import seed_everything

    check_packages(cfg)
    init_default_scope(ConfigView(cfg).scope)
    batch, meta, content = read_kept(path)
    if not content.get('state_dict'):
        raise InputError(f'{path} holds a batch but no weights: those of a training with a strategy are in its checkpoints')
    model = MODELS.build(ConfigView(cfg).model)
    adapt_checkpoint(model, content, path, strict=True)
    model.load_state_dict(content['state_dict'])
    model.to(get_device()).train()
    kind = getattr(torch, precision)
    if kind == torch.float64:
        model.double()
        batch = to_double(batch)
    if all(isinstance(meta.get(key), int) for key in ('seed', 'rank', 'iter')):
        seed_everything(meta['seed'], meta['rank'], meta['iter'], 0)
    states = content.get('random') or {}
    if isinstance(states.get('torch'), torch.Tensor):
        torch.set_rng_state(states['torch'])
    mixed = torch.autocast(get_device(), dtype=kind) if kind.itemsize == 2 else nullcontext()
    with mixed:
        return meta, trace_losses(model, batch)


def to_double(value):
    if isinstance(value, dict):
        return {key: to_double(item) if key == 'inputs' else item for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(to_double, value))
    return value.double()


def main(args):
    from mmvitscale.config.loading import load_config

    meta, trace = replay(load_config(args.config, args.cfg_options), args.kept, args.precision)
    print(f'iteration {meta.get("iter", -1) + 1}, images {some_of([str(path) for path in meta.get("images") or ["unknown"]])}')
    print(f'then: {meta.get("what")}, first out of {meta.get("first")}')
    for name, value in trace.losses.items():
        print(f'{name:28} {value:.6g}')
    layers = trace.layers if args.all else sorted(trace.layers, key=lambda layer: -layer[2])[: args.top]
    print(f'{"layer":60} {"largest output":>14}')
    for name, kind, largest, finite in layers:
        print(f'{name + " (" + kind + ")":60} {largest:14.6g}{"" if finite else "  and NaN or Inf"}')
    print(
        f'in {args.precision}: '
        + (f'the first NaN or Inf came out of {trace.first}' if trace.first else 'every value of the forward pass is finite')
    )


if __name__ == '__main__':
    run_command(parse_args, main)
