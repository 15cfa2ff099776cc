"""Measure SwinV2 beside the same network of the other libraries that are installed, or DeepViT beside its official form and
plain ViTs, and both beside their matrix products.

Implementations take turns in every round, timed interleaved, so that the load of the machine falls on all; memory is measured
in a process for each. With --whole the whole training step of configs takes the place of the networks: data, preprocessing,
backbone, neck, heads with their losses, backward pass and optimizer.
"""

import argparse
import itertools
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from mmvitscale.cli import ConfigOptions, run_command, save_json
from mmvitscale.errors import InputError
from mmvitscale.utils.atomic_write import check_writable
from mmvitscale.utils.choices import EXPORTED_VARIANTS, MODES, PRECISIONS, VARIANTS
from mmvitscale.utils.cpu import check_compiler


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--arch', default='tiny', help='variant of SwinV2 or DeepViT, e.g. tiny or deepvit-16b')
    parser.add_argument('--image-size', type=int, nargs='+', default=[512], help='sides of square images in pixels')
    parser.add_argument('--window', type=int, nargs='+', default=[8, 16], help='of SwinV2')
    parser.add_argument('--depth', type=int, default=0, help='of DeepViT: so many blocks only (0: all)')
    parser.add_argument('--mode', nargs='+', choices=MODES, default=list(MODES))
    parser.add_argument('--dtype', nargs='+', choices=PRECISIONS, default=['fp32'], help='fp32, or the type of autocast')
    parser.add_argument('--batch-size', type=int, nargs='+', default=[1])
    parser.add_argument('--attention', default='auto', help='our kernel')
    parser.add_argument(
        '--variant',
        nargs='+',
        choices=[*VARIANTS, *EXPORTED_VARIANTS],
        default=['plain'],
        help='everyone as it comes, through torch.compile, with checkpointing of its own; with --whole, whose variants take '
        'turns: through torch.compile (backbone, neck and dense heads), or as ONNX or OpenVINO file (at inference)',
    )
    parser.add_argument(
        '--implementations', nargs='*', metavar='NAME', help='which of the others; None: all that are installed'
    )
    parser.add_argument('--device', choices=['cpu', 'cuda'], help='None: cuda where there is one')
    parser.add_argument('--threads', type=int, help='of a CPU; None: as many as PyTorch takes')
    parser.add_argument('--rounds', type=int, default=9, help='0: no times')
    parser.add_argument('--measure-memory', action='store_true', help='peak memory, too')
    parser.add_argument(
        '--count-passes', action='store_true', help='how many tensors larger than a cache each reads and writes in a step, too'
    )
    parser.add_argument('--profile', action='store_true', help='where the time of our step goes as it comes, too (on a CPU)')
    parser.add_argument('--json', metavar='F', help='write everything to this file')
    parser.add_argument(
        '--whole',
        nargs='+',
        metavar='CONFIG',
        help='measure whole steps of configs, the others beside the first, e.g. swinv2_upernet_ade20k '
        'mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py, swinv2_mask_rcnn_coco '
        'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_amp-ms-crop-3x_coco.py or swinv2_retinanet_coco '
        'mmdet::swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py. Then --mode is training, --batch-size 2, --rounds 3 and '
        '--image-size, which holds for training, what each config has, unless they are given',
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='override all configs of --whole'
    )
    # In a process of its own: one implementation, one case.
    parser.add_argument('--in-this-process', nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    # Defaults do not replace what a namespace has already: None is left where an option is not given.
    given = parser.parse_args(namespace=argparse.Namespace(**dict.fromkeys(vars(args))))
    args.given = {name for name, value in vars(given).items() if value is not None}
    return args


def cases_of(args):
    from mmvitscale.profiling import benchmark
    from mmvitscale.profiling.benchmark import Case

    windows = [0] if Case(args.arch).is_deepvit else args.window
    cases = [
        Case(args.arch, size, window, mode, dtype, batch, args.device, args.attention, args.depth)
        for size, window, mode, dtype, batch in itertools.product(
            args.image_size, windows, args.mode, args.dtype, args.batch_size
        )
    ]
    for case in cases:
        benchmark.check_case(case)
    return cases


def memory_of(implementation, case, threads):
    """Measured in a fresh process, or None if it fails there, for want of memory most likely."""
    command = [
        sys.executable,
        __file__,
        '--in-this-process',
        implementation.name,
        implementation.variant,
        '--arch',
        case.arch,
        '--image-size',
        case.size,
        '--window',
        case.window,
        '--depth',
        case.depth,
        '--mode',
        case.mode,
        '--dtype',
        case.dtype,
        '--batch-size',
        case.batch,
        '--attention',
        case.attention,
        '--device',
        case.device,
        '--threads',
        threads,
    ]
    return memory_in(command, implementation)


def memory_in(command, name):
    """What a command measures, or None if it fails."""
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if result.returncode:
        print(
            f'  {name}: no memory measured (exit status {result.returncode}): '
            f'{(result.stderr.strip().splitlines() or ["no message"])[-1]}',
            file=sys.stderr,
        )
        return None
    return json.loads(result.stdout.splitlines()[-1])


def steps_of(implementations, case):
    """A step of each that can do it; the others are named."""
    from mmvitscale.profiling import benchmark

    steps = {}
    for implementation in implementations:
        try:
            steps[implementation] = benchmark.make_step(implementation, case)
        except InputError as error:
            print(f'  left out: {error}')
    return steps


def measure(case, args, names):
    import torch

    from mmvitscale.profiling import benchmark
    from mmvitscale.profiling.benchmark import LOWER_BOUND, OURS, Implementation

    variants = [variant for variant in args.variant if variant != 'checkpointed' or case.mode == 'training']
    implementations = [Implementation(name, variant) for variant in variants for name in names]
    torch._dynamo.reset()  # of every case the graphs that it would have alone
    seconds = {}
    if args.rounds:
        lower_bound = Implementation(LOWER_BOUND)
        seconds = benchmark.times(
            {**steps_of(implementations, case), lower_bound: benchmark.make_step(lower_bound, case)}, args.rounds
        )
    results = []
    for implementation in implementations:
        memory = (
            memory_of(implementation, case, args.threads)
            if args.measure_memory and implementation.variant != 'compiled'
            else None
        )
        difference = None
        if args.rounds and implementation.variant == 'plain' and implementation.name not in (OURS, benchmark.PLAIN):
            difference = benchmark.difference(implementation.name, case)
        if memory or implementation in seconds:
            results.append(benchmark.summarise(case, implementation, seconds.get(implementation), memory, difference))
    if seconds:
        results.append(benchmark.summarise(case, lower_bound, seconds[lower_bound], None, None))
    return results


WORDS = dict(
    speedup='fastest other / ours',
    lower_bound='ours / matrix products',
    plain='ours / plain attention',
    memory='our peak / leanest other',
)


def show(case, results, ratios):
    from mmvitscale.profiling.benchmark import OURS, Implementation

    print(f'\n{case}')
    ours = next(
        (result.seconds for result in results if result.implementation == Implementation(OURS) and result.seconds), None
    )
    for result in results:
        cells = [f'  {result.implementation!s:32}']
        if result.seconds:
            compared = f'{result.seconds / ours:5.2f}x ours' if ours else ''
            cells.append(f'{1000 * result.seconds:9.1f} ms  +-{100 * result.spread / 2:4.1f}%  {compared}')
        if result.memory:
            cells.append(f'peak {result.memory["peak"]:7.0f} MB, step {result.memory["step"]:7.0f} MB')
        if result.difference is not None:
            cells.append(f'differs by {result.difference:.0e}')
        print('  '.join(cells))
    parts = []
    for key, value in ratios.items():
        kind, _, variant = key.partition(', ')
        parts.append(f'{WORDS[kind]}{f" ({variant})" if variant else ""} {value:.2f}')
    print('  ' + ', '.join(parts), flush=True)


def passes_of(case, names):
    """Passes over memory of a plain step of each that can do it."""
    from mmvitscale.profiling.benchmark import Implementation
    from mmvitscale.profiling.memory_passes import count_passes

    counts = {}
    for implementation, step in steps_of([Implementation(name) for name in names], case).items():
        step()  # what is kept for later steps is there
        counts[implementation.name] = count_passes(step)
    print('  passes over memory, larger than 1 MiB and within:')
    for name, found in counts.items():
        print(
            f'    {name:30}{found.passes:6} of {found.megabytes:8.1f} MB  {found.cached:6} of {found.cached_megabytes:8.1f} MB'
        )
    return {name: asdict(found) for name, found in counts.items()}


def show_profile(shares):
    whole = sum(share.seconds for share in shares)
    print(f'  our step of {1000 * whole:.0f} ms, while it is watched:')
    for share in shares:
        print(f'    {share.kind:26}{100 * share.seconds / whole:5.1f}%  {share.count:6.0f} calls')


_NOT_OF_CONFIGS = ('arch', 'window', 'depth', 'attention', 'implementations', 'count_passes')  # a config says it itself


def whole_cases(args):
    from mmvitscale.profiling import whole_step
    from mmvitscale.profiling.whole_step import WholeCase

    for name in _NOT_OF_CONFIGS:
        if name in args.given:
            option = name.replace('_', '-')
            raise InputError(
                f'--{option} found with --whole, which measures the networks of its configs; leave it out, or override the '
                'configs with --cfg-options'
            )

    def given(name, default):
        return getattr(args, name) if name in args.given else default

    sizes, batches = given('image_size', [None]), given('batch_size', [2])
    cases = []
    for mode, dtype, size in itertools.product(given('mode', ['training']), args.dtype, sizes):
        own = batches if mode == 'training' else [1]
        cases += [WholeCase(mode, dtype, batch, size, args.device) for batch in own]
    for case, variant in itertools.product(cases, args.variant):
        whole_step.check_case(case, variant)
    return cases


def whole_memory(config, case, variant):
    """Of a config, in a fresh process: by this command, narrowed down to one case."""
    case_of_it = ['--whole', config, '--mode', case.mode, '--dtype', case.dtype, '--variant', variant]
    sizes = ['--image-size', case.size] if case.size else []
    in_this_process = ['--batch-size', case.batch, '--in-this-process', 'whole', variant]
    return memory_in([sys.executable, __file__, *sys.argv[1:], *case_of_it, *sizes, *in_this_process], config)


def show_whole(case, results, ratios):
    from mmvitscale.profiling import whole_step

    print(f'\n{case}')
    for result, ratio in zip(results, [{}, *ratios]):
        variant = '' if result.variant == 'plain' else f', {result.variant}'
        print(
            f'  {result.config}{variant}: {result.parameters / 1e6:.1f}M parameters, batch {" x ".join(map(str, result.shape))}'
        )
        for part, seconds in result.seconds.items():
            compared = f'  {ratio[part]:5.2f}x the first' if part in ratio else ''
            name = part if part == whole_step.STEP else f'  {part}'
            print(f'    {name:28}{1000 * seconds:9.1f} ms  +-{100 * result.spread[part] / 2:5.1f}%{compared}')
        if result.memory:
            print(f'    peak {result.memory["peak"]:7.0f} MB, step {result.memory["step"]:7.0f} MB')
    sys.stdout.flush()


def show_whole_profile(config, shares):
    step = sum(share.seconds for share in shares[''])
    print(f'  {config}: a step of {1000 * step:.0f} ms, while it is watched:')
    for part, own in sorted(shares.items(), key=lambda item: -sum(share.seconds for share in item[1])):
        seconds = sum(share.seconds for share in own)
        print(f'    {part or "step":28}{100 * seconds / step:5.1f}%')
        for share in own if not part else own[:3]:
            print(f'      {share.kind:26}{100 * share.seconds / step:5.1f}%  {share.count:6.0f} calls')


def whole(args):
    """--whole: the steps of configs beside the first one's."""
    import torch
    from mmengine.logging import MMLogger

    from mmvitscale.config.loading import load_config
    from mmvitscale.profiling import benchmark, whole_step

    cases = whole_cases(args)
    MMLogger.get_current_instance().setLevel('ERROR')  # says that the weights are random, part by part
    cfgs = [load_config(config, args.cfg_options) for config in args.whole]
    if args.in_this_process:
        print(json.dumps(whole_step.peak_memory(cfgs[0], cases[0], args.variant[0])))
        return
    if args.json:
        check_writable(str(Path(args.json).parent))
    rounds = args.rounds if 'rounds' in args.given else 3
    machine = benchmark.machine(args.device, args.threads)
    print(machine)
    report = dict(machine=machine, command=' '.join(['python', *sys.argv]), cases=[])
    for case in cases:
        rows = list(itertools.product(args.whole, args.variant))
        memory = [whole_memory(config, case, variant) if args.measure_memory else None for config, variant in rows]
        torch._dynamo.reset()  # of every case the graphs that it would have alone
        with whole_step.steps_of(cfgs, case, args.variant) as steps:
            measured = whole_step.measure(steps, rounds)
            results = [whole_step.summarise(config, *row) for (config, _), *row in zip(rows, steps, measured, memory)]
            shares = [benchmark.profile_steps(step, 1, step.parts) for step in steps] if args.profile else []
        ratios = whole_step.ratios(results)
        show_whole(case, results, ratios)
        for (config, variant), found in zip(rows, shares):
            show_whole_profile(f'{config}, {variant}', found)
        profiles = [{part: [asdict(share) for share in own] for part, own in found.items()} for found in shares]
        report['cases'].append(
            dict(results=[asdict(result) for result in results], rounds=measured, ratios=ratios, profiles=profiles)
        )
    if args.json:
        save_json(report, args.json)


def networks(args):
    """SwinV2 or DeepViT beside the same network of others."""
    from mmengine.logging import MMLogger

    from mmvitscale.profiling import benchmark
    from mmvitscale.profiling.benchmark import OURS, Implementation

    exported = set(args.variant) & set(EXPORTED_VARIANTS)
    if exported:
        raise InputError(f'--variant {min(exported)} found without --whole, whose models can be exported; give configs with it')
    cases = cases_of(args)
    if args.in_this_process:
        print(json.dumps(benchmark.peak_memory(Implementation(*args.in_this_process), cases[0])))
        return
    if 'compiled' in args.variant and args.device == 'cpu':
        check_compiler()
    MMLogger.get_current_instance().setLevel('ERROR')  # says what becomes of the weights, once for each baseline and case
    present, absent = benchmark.others(cases[0])
    unknown = set(args.implementations or []) - set(present)
    if unknown:
        raise InputError(
            f'--implementations {", ".join(sorted(unknown))} found, but those installed are {", ".join(present) or "none"}'
        )
    if args.json:
        check_writable(str(Path(args.json).parent))
    machine = benchmark.machine(args.device, args.threads)
    print(machine)
    print(f'not installed: {", ".join(absent) or "none"}')
    report = dict(machine=machine, command=' '.join(['python', *sys.argv]), absent=absent, cases=[])
    names = [OURS, *(present if args.implementations is None else args.implementations)]
    for case in cases:
        results = measure(case, args, names)
        ratios = benchmark.ratios(results)
        show(case, results, ratios)
        passes = passes_of(case, names) if args.count_passes else {}
        shares = benchmark.profile(Implementation(OURS), case) if args.profile else []
        if shares:
            show_profile(shares)
        report['cases'].append(
            dict(
                results=[asdict(result) for result in results],
                ratios=ratios,
                passes=passes,
                profile=[asdict(share) for share in shares],
            )
        )
    if args.json:
        save_json(report, args.json)


def main(args):
    import torch

    args.device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    args.threads = torch.get_num_threads() if args.threads is None else args.threads
    if args.threads < 1 or args.rounds < 0:
        raise InputError(f'--threads {args.threads} and --rounds {args.rounds} found, but they are at least 1 and 0')
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.cfg_options and not args.whole:
        raise InputError('--cfg-options found without --whole, whose configs they override; give configs with --whole')
    (whole if args.whole else networks)(args)


if __name__ == '__main__':
    run_command(parse_args, main)
