"""Plan the memory of a training, without a GPU: what parameters, gradients, optimizer states and activations take on each
one, for each strategy of tools/train.py, and the fastest setting that fits. Nothing is loaded or trained."""

import argparse
import copy
import json
import os
import resource
import statistics
import subprocess
import sys
import time

from mmvitscale.cli import ConfigOptions, run_command, save_json
from mmvitscale.errors import InputError
from mmvitscale.utils.choices import PRECISIONS, STRATEGIES

GB = 1e9


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--gpus', type=int, nargs='+', default=[1, 8], metavar='N', help='number of GPUs (default 1 and 8)')
    parser.add_argument('--strategy', choices=STRATEGIES, nargs='+', default=list(STRATEGIES), help='default: all')
    parser.add_argument('--precision', choices=PRECISIONS, default='fp32', help='bf16 and fp16 are --amp of tools/train.py')
    parser.add_argument(
        '--16-bit-weights',
        dest='sixteen',
        action='store_true',
        help="with deepspeed_zero1, DeepSpeed's own bf16 or fp16: weights and gradients of 2 bytes",
    )
    parser.add_argument(
        '--gpu-memory',
        type=float,
        nargs='+',
        default=[40, 80],
        metavar='GB',
        help='of a GPU, in 10^9 bytes (default 40 and 80)',
    )
    parser.add_argument(
        '--reserve', type=float, default=2.0, metavar='GB', help='of it for CUDA, its libraries and gaps (default 2)'
    )
    parser.add_argument('--batch-size', type=int, metavar='N', help="images on a GPU at a time (default: the config's)")
    parser.add_argument(
        '--image-size',
        type=int,
        nargs='+',
        metavar='N',
        help="side, or height and width, of the training images (default: the config's)",
    )
    parser.add_argument(
        '--measure',
        action='store_true',
        help='take a training step of one block of each stage of a SwinV2 on this CPU, and show its memory '
        'beside the plan and what checkpointing costs in time',
    )
    parser.add_argument('--json', metavar='F', help='write the numbers there, too')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='override the config')
    parser.add_argument('--block', help=argparse.SUPPRESS)  # in a process of its own: one block to measure
    return parser.parse_args()


def build(cfg):
    import torch
    from mmengine.registry import MODELS, init_default_scope

    from mmvitscale.checkpoints.loading import backbones_of
    from mmvitscale.config.runtime import check_packages
    from mmvitscale.config.view import ConfigView

    check_packages(cfg)
    init_default_scope(ConfigView(cfg).scope)
    cfg.model.pop('pretrained', None)
    with torch.device('meta'):
        model = MODELS.build(cfg.model).train()
    if not hasattr(model, 'backbone') or not backbones_of(model.backbone):
        raise InputError(f'{cfg.filename} has no backbone of mmvitscale; give the config of a SwinV2, a DeepViT or a ViT')
    return model


def check(args, cfg):
    from mmvitscale.profiling import memory_plan

    if min(args.gpus) < 1 or args.batch_size is not None and args.batch_size < 1:
        raise InputError('--gpus and --batch-size are 1 or more')
    if args.image_size and (len(args.image_size) > 2 or min(args.image_size) < 1):
        raise InputError(
            f'--image-size {" ".join(map(str, args.image_size))} found, but it is one side, or height and width, in pixels'
        )
    if min(args.gpu_memory) <= args.reserve:
        raise InputError(
            f'--gpu-memory {min(args.gpu_memory):g} found, of which {args.reserve:g} GB are reserved; give more, or a smaller '
            '--reserve'
        )
    if args.sixteen and args.precision == 'fp32':
        raise InputError('--16-bit-weights found with --precision fp32; add --precision bf16 or fp16')
    size = (args.image_size[0], args.image_size[-1]) if args.image_size else memory_plan.training_size(cfg)
    images = args.batch_size or (cfg.get('train_dataloader') or {}).get('batch_size') or 1
    return size, images


def show_activations(model, steps, heads, strategies):
    parts = list(dict.fromkeys(name for found in steps.values() for name in found.kept))
    print(
        f'\nActivations that the forward pass leaves with {", ".join(strategies)}, in GB, and the peak of a step beyond '
        f'what lasts\n{"":53}' + ''.join(f'{name:>16}' for name in parts) + f'{"peak":>10}'
    )
    for setting, found in steps.items():
        print(f'{str(setting):53}' + ''.join(f'{found.kept[name] / GB:16.2f}' for name in parts) + f'{found.peak / GB:10.2f}')
    left_out = [
        name
        for name, module in model.named_children()
        if name not in ('backbone', 'data_preprocessor', *heads) and any(True for _ in module.parameters())
    ]
    if left_out:
        print(f'Of {", ".join(left_out)} the parameters are counted, not the activations: they do not run on features alone.')


def show_plans(rows, memories):
    print(
        f'\nGB on each GPU\n{"strategy":17}{"GPUs":>5}{"weights":>9}{"gradients":>11}{"states":>8}{"gathered":>10}'
        f'{"lasting":>9}{"total":>8}  ' + '  '.join(f'{f"fastest that fits {memory:g} GB":50}' for memory in memories)
    )
    for row in rows:
        share = row['shares']
        cells = []
        for memory in memories:
            plan = row['fits'][memory]
            cells.append(f'{f"{plan.setting}: {plan.total / GB:.1f}" if plan else "none":50}')
        print(
            f'{row["strategy"]:17}{row["gpus"]:5}{share.parameters / GB:9.1f}{share.gradients / GB:11.1f}'
            f'{share.states / GB:8.1f}{share.gathered / GB:10.1f}{share.lasting / GB:9.1f}{row["own"] / GB:8.1f}  '
            + '  '.join(cells).rstrip()
        )


def plans_of(args, sizes, choices, taken, as_built, weights):
    """For each strategy and number of GPUs what lasts there, and the fastest setting that fits each memory."""
    from mmvitscale.profiling import memory_plan

    rows = []
    for strategy in args.strategy:
        steps = taken[weights[strategy]]
        for gpus in args.gpus:
            share = memory_plan.shares(sizes, strategy, gpus, args.sixteen)
            plans = [memory_plan.Plan(strategy, gpus, share, setting, steps[setting].peak) for setting in choices]
            fits = {memory: memory_plan.cheapest(plans, (memory - args.reserve) * GB) for memory in args.gpu_memory}
            own = share.total(as_built[weights[strategy]])
            rows.append(dict(strategy=strategy, gpus=gpus, shares=share, own=own, fits=fits))
    return rows


def report(cfg, args, size, images, sizes, taken, rows):
    """The numbers, for JSON."""
    activations = [
        dict(weights=kind, setting=str(setting), peak=found.peak, kept=found.kept)
        for kind, steps in taken.items()
        for setting, found in steps.items()
    ]
    plans = []
    for row in rows:
        fits = {m: plan and dict(setting=str(plan.setting), total=plan.total) for m, plan in row['fits'].items()}
        plans.append({**row, 'shares': vars(row['shares']), 'fits': fits})
    return dict(
        config=str(cfg.filename),
        size=size,
        images=images,
        precision=args.precision,
        sizes=vars(sizes),
        activations=activations,
        plans=plans,
    )


def main(args):
    import torch

    from mmvitscale.config.loading import load_config
    from mmvitscale.profiling import memory_plan

    if args.block:
        asked = json.loads(args.block)
        return print(json.dumps(time_block(asked) if asked.get('timed') else measure_block(asked)))
    cfg = load_config(args.config, args.cfg_options)
    size, images = check(args, cfg)
    model = build(cfg)
    backbone = model.backbone
    sizes = memory_plan.sizes_of(model, cfg)
    own = memory_plan.configured_setting(backbone)
    choices, compared = memory_plan.settings_of(backbone)
    settings = list(dict.fromkeys([*compared, *choices]))
    heads = memory_plan.runnable_heads(model, torch.empty(images, _channels(backbone), *size, device='meta'))
    print(
        f'{cfg.filename}: {sizes.parameters / 1e9:.3f}B parameters, {sizes.trained / 1e9:.3f}B of them trained, '
        f'{sum(sizes.blocks) / 1e9:.3f}B in blocks; {images} images of {size[0]} x {size[1]} on each GPU, {args.precision}\n'
        f'states of {sizes.state_bytes} bytes a parameter: weights, gradients and states of a single GPU take '
        f'{(4 * sizes.parameters + (4 + sizes.state_bytes) * sizes.trained) / GB:.1f} GB'
    )
    weights = {strategy: memory_plan.weights_of(strategy, args.precision, args.sixteen) for strategy in args.strategy}
    taken, as_built = {}, {}
    for kind in dict.fromkeys(weights.values()):
        options = dict(precision=args.precision, weights=kind)
        as_built[kind] = memory_plan.take_step(copy.deepcopy(model), images, size, None, **options).peak
        taken[kind] = {
            setting: memory_plan.take_step(copy.deepcopy(model), images, size, setting, **options) for setting in settings
        }
        show_activations(model, taken[kind], heads, [name for name in args.strategy if weights[name] == kind])
    rows = plans_of(args, sizes, choices, taken, as_built, weights)
    show_plans(rows, args.gpu_memory)
    print(
        f'total: with the setting of the config, {own or "a mixture of kernels"}. lasting + the larger of activations and '
        f'what the optimizer makes. {args.reserve:g} GB of each GPU are left for CUDA and its libraries.'
    )
    measured = measure(backbone, images, size) if args.measure else []
    if args.json:
        content = report(cfg, args, size, images, sizes, taken, rows)
        content['blocks'] = measured
        save_json(content, args.json)
    return None


def _channels(backbone):
    import torch

    return next(m.in_channels for m in backbone.patch_embed.modules() if isinstance(m, torch.nn.Conv2d))


# Every piece of memory of more than 64 KiB from the system and back at once, so that what a process holds is what lives.
EXACT = dict(MALLOC_MMAP_THRESHOLD_='65536', MALLOC_TRIM_THRESHOLD_='65536', MALLOC_TOP_PAD_='0')


def measure(backbone, images, size):
    """One block of each stage, in a process of its own."""
    import torch

    from mmvitscale.models import SwinTransformerV2
    from mmvitscale.profiling import memory_plan

    if not isinstance(backbone, SwinTransformerV2):
        raise InputError('--measure found, but it is for a SwinV2; leave it out')
    print(
        f'\nA training step (AdamW) of one block of each stage on this CPU, {torch.get_num_threads()} threads, fp32, '
        f'sequential attention, {images} images\n{"stage":6}{"map":>10}{"window":>9}{"width":>7}{"":>15}{"plan GB":>9}'
        f'{"measured":>10}{"ratio":>7}{"seconds":>9}{"cost":>7}'
    )
    rows = []
    for stage in range(len(backbone.stages)):
        block = dict(arguments=memory_plan.one_block(backbone, stage), map=memory_plan.map_of(stage, size), images=images)
        seconds = alone(dict(block, timed=True), os.environ)
        for checkpointing in (False, True):
            found = alone(dict(block, checkpointing=checkpointing), {**os.environ, **EXACT})
            found['seconds'] = seconds[checkpointing]
            rows.append(dict(stage=stage, **block, **found))
            print(
                f'{stage:<6}{"x".join(map(str, block["map"])):>10}{str(backbone.stages[stage].window[0]):>9}'
                f'{block["arguments"]["arch"]["embed_dims"]:7}{"checkpointing" if checkpointing else "":>15}'
                f'{found["plan"] / GB:9.2f}{found["measured"] / GB:10.2f}{found["measured"] / found["plan"]:7.3f}'
                f'{found["seconds"]:9.2f}{found["seconds"] / seconds[False]:7.2f}',
                flush=True,
            )
    return rows


def alone(block, environment):
    """What ``measure_block`` or ``time_block`` gives, in a process that does nothing else."""
    result = subprocess.run(
        [sys.executable, __file__, '', '--block', json.dumps(block)], capture_output=True, text=True, env=environment
    )
    if result.returncode:
        raise InputError(
            f'a block could not be trained here (exit status {result.returncode}: '
            f'{" ".join(result.stderr.strip().splitlines()[-1:])}), for want of memory most likely'
        )
    return json.loads(result.stdout.splitlines()[-1])


def one_stage(asked, device):
    """A stage of one block, and the shape of its map."""
    import torch

    from mmvitscale.models import SwinTransformerV2

    with torch.device(device):
        stage = SwinTransformerV2(**asked['arguments'], attention='sequential').stages[0]
    stage.with_cp = asked.get('checkpointing', False)
    return stage, (asked['images'], *asked['map'], asked['arguments']['arch']['embed_dims'])


def time_block(asked):
    """Seconds of a forward and backward pass without and with checkpointing, medians of rounds in turn."""
    import torch

    stage, shape = one_stage(asked, 'cpu')
    x = torch.randn(shape, requires_grad=True)
    seconds = {False: [], True: []}
    while sum(map(sum, seconds.values())) < 10 or len(seconds[False]) < 2:
        for stage.with_cp in seconds:
            start = time.perf_counter()
            stage(x).square().mean().backward()
            seconds[stage.with_cp].append(time.perf_counter() - start)
    return [statistics.median(seconds[kind][1 if len(seconds[kind]) > 2 else 0 :]) for kind in (False, True)]


def measure_block(asked):
    """Bytes of a training step of a block, planned and measured; a first, small step warms up."""
    import torch

    from mmvitscale.profiling.live_tensors import step

    planned, shape = one_stage(asked, 'meta')
    x = torch.empty(shape, device='meta', requires_grad=True)
    parameters = sum(p.numel() for p in planned.parameters())
    peak = step(lambda: planned(x).square().mean(), planned, device='cpu').peak  # x's gradient is in it
    stage, _ = one_stage(asked, 'cpu')
    optimizer = torch.optim.AdamW(stage.parameters(), 1e-4, foreach=False)
    stage(torch.randn(1, 2, 2, shape[-1])).sum().backward()
    optimizer.zero_grad()
    # The map's own bytes come from the stage before; in the plan they are no activations.
    x = torch.randn(shape, requires_grad=True)
    with open('/proc/self/clear_refs', 'w') as file:
        file.write('5')  # the highest mark starts again
    with open('/proc/self/statm') as file:
        before = int(file.read().split()[1]) * resource.getpagesize()
    stage(x).square().mean().backward()
    optimizer.step()
    with open('/proc/self/status') as file:
        highest = next(int(line.split()[1]) for line in file if line.startswith('VmHWM')) * 1024
    states, largest = 4 * 3 * parameters, 4 * max(p.numel() for p in stage.parameters())  # gradients and moments
    return dict(
        plan=max(4 * parameters + peak, 4 * parameters + states + largest + 4 * x.numel()),
        measured=highest - before + 4 * parameters,
    )


if __name__ == '__main__':
    run_command(parse_args, main)
