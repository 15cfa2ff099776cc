"""Measure SwinV2 beside the same network of the other libraries that are installed, and beside its matrix products.

Contestants take turns in every round, so that all share the machine's moods; memory is measured in a process for each.
"""

import argparse
import itertools
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from mmengine.logging import MMLogger

from mmvitscale.analysis import benchmark
from mmvitscale.analysis.benchmark import FLOOR, OURS, Case
from mmvitscale.commands import check_writable, run_command, save_json
from mmvitscale.errors import InputError


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--arch', default='tiny', help='variant of SwinV2')
    parser.add_argument('--size', type=int, nargs='+', default=[512], help='sides of square images in pixels')
    parser.add_argument('--window', type=int, nargs='+', default=[8, 16])
    parser.add_argument('--mode', nargs='+', choices=benchmark.MODES, default=list(benchmark.MODES))
    parser.add_argument('--dtype', nargs='+', choices=list(benchmark.DTYPES), default=['fp32'],
                        help='fp32, or the type of autocast')
    parser.add_argument('--batch', type=int, nargs='+', default=[1])
    parser.add_argument('--attention', default='auto', help="our kernel")
    parser.add_argument('--with-cp', action='store_true', help='our blocks checkpointed')
    parser.add_argument('--peers', nargs='*', help='which of the others (default: all that are installed)')
    parser.add_argument('--compile', action='store_true', help='everyone compiled, too')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads(), help='of a CPU')
    parser.add_argument('--rounds', type=int, default=9, help='0: no times')
    parser.add_argument('--memory', action='store_true', help='peak memory, too')
    parser.add_argument('--json', metavar='F', help='write everything to this file')
    parser.add_argument('--memory-of', help=argparse.SUPPRESS)  # in a process of its own: one contestant, one case
    return parser.parse_args()


def cases_of(args):
    cases = [Case(args.arch, size, window, mode, dtype, batch, args.device, args.attention, args.with_cp)
             for size, window, mode, dtype, batch in itertools.product(args.size, args.window, args.mode, args.dtype,
                                                                       args.batch)]
    for case in cases:
        benchmark.check_case(case)
    return cases


def contestants_of(args, present):
    names = [OURS, *(present if args.peers is None else args.peers)]
    return [(f'{name} (compiled)' if compiled else name, name, compiled)
            for compiled in ([False, True] if args.compile else [False]) for name in names]


def memory_of(name, case, threads):
    """Measured in a fresh process, or None if it fails there, for want of memory most likely."""
    command = [sys.executable, __file__, '--memory-of', name, '--arch', case.arch, '--size', case.size, '--window',
               case.window, '--mode', case.mode, '--dtype', case.dtype, '--batch', case.batch, '--attention',
               case.attention, '--device', case.device, '--threads', threads, *(['--with-cp'] if case.with_cp else [])]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if result.returncode:
        print(f'  {name}: no memory measured (exit status {result.returncode}): '
              f'{(result.stderr.strip().splitlines() or ["no message"])[-1]}', file=sys.stderr)
        return None
    return json.loads(result.stdout.splitlines()[-1])


def measure(case, args, present):
    contestants = contestants_of(args, present)
    seconds = {}
    if args.rounds:
        steps = {label: benchmark.make_step(name, case, compiled) for label, name, compiled in contestants}
        seconds = benchmark.times({**steps, FLOOR: benchmark.make_step(FLOOR, case)}, args.rounds)
        del steps
    results = []
    for label, name, compiled in contestants:
        memory = memory_of(name, case, args.threads) if args.memory and not compiled else None
        difference = benchmark.difference(name, case) if name != OURS and not compiled and args.rounds else None
        results.append(benchmark.summarise(case, label, seconds.get(label), memory, difference))
    if FLOOR in seconds:
        results.append(benchmark.summarise(case, FLOOR, seconds[FLOOR], None, None))
    return results


def show(case, results, ratios):
    print(f'\n{case}')
    ours = next(result for result in results if result.name == OURS)
    for result in results:
        cells = [f'  {result.name:26}']
        if result.seconds:
            cells.append(f'{1000 * result.seconds:9.1f} ms  +-{100 * result.spread / 2:4.1f}%  '
                         f'{result.seconds / ours.seconds:5.2f}x ours')
        if result.memory:
            cells.append(f'peak {result.memory["peak"]:7.0f} MB, step {result.memory["step"]:7.0f} MB')
        if result.difference is not None:
            cells.append(f'differs by {result.difference:.0e}')
        print('  '.join(cells))
    words = dict(speedup='fastest peer / ours', floor='ours / matrix products', memory='our peak / leanest peer')
    print('  ' + ', '.join(f'{words[key]} {value:.2f}' for key, value in ratios.items()), flush=True)


def main():
    args = parse_args()
    if args.threads < 1 or args.rounds < 0:
        raise InputError(f'--threads {args.threads} and --rounds {args.rounds} found, but they are at least 1 and 0')
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    cases = cases_of(args)
    if args.memory_of:
        print(json.dumps(benchmark.peak_memory(args.memory_of, cases[0])))
        return
    MMLogger.get_current_instance().setLevel('ERROR')  # says what becomes of the weights, once for each peer and case
    present, absent = benchmark.installed_peers()
    unknown = set(args.peers or []) - set(present)
    if unknown:
        raise InputError(f'--peers {", ".join(sorted(unknown))} found, but those installed are '
                         f'{", ".join(present) or "none"}')
    if args.json:
        check_writable(str(Path(args.json).parent))
    machine = benchmark.machine(args.device, args.threads)
    print(machine)
    print(f'not installed: {", ".join(absent) or "none"}')
    report = dict(machine=machine, command=' '.join(['python', *sys.argv]), absent=absent, cases=[])
    for case in cases:
        results = measure(case, args, present)
        ratios = benchmark.ratios(results)
        show(case, results, ratios)
        report['cases'].append(dict(results=[asdict(result) for result in results], ratios=ratios))
    if args.json:
        save_json(report, args.json)


if __name__ == '__main__':
    run_command(main)
