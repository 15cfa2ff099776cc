"""Shared by dist_train.sh and dist_test.sh: run a tool in several processes on this machine."""

import argparse
import re
import sys
from pathlib import Path


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('tool', help='train.py or test.py')
    parser.add_argument('config', help='its first argument')
    parser.add_argument('processes', help='how many')
    parser.add_argument('options', nargs=argparse.REMAINDER, help='what the tool takes further')
    return parser.parse_args()


def main(args):
    from mmvitscale.engine.launch import run_processes

    if not re.fullmatch('[1-9][0-9]*', args.processes):
        print(f"error: the number of processes is '{args.processes}', but it is 1 or more", file=sys.stderr)
        return 2
    script = Path(__file__).parent / args.tool
    return run_processes(str(script), [args.config, *args.options, '--launcher', 'pytorch'], int(args.processes))


if __name__ == '__main__':
    sys.exit(main(parse_args()))
