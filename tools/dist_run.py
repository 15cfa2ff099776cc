"""Shared by dist_train.sh and dist_test.sh: dist_run.py TOOL CONFIG N [options of the tool]"""

import re
import sys
from pathlib import Path

from mmvitscale.engine.launch import run_processes


def main():
    tool, config, processes, *options = sys.argv[1:]
    if not re.fullmatch('[1-9][0-9]*', processes):
        print(f"error: the number of processes is '{processes}', but it is 1 or more", file=sys.stderr)
        return 2
    script = Path(__file__).parent / tool
    return run_processes(str(script), [config, *options, '--launcher', 'pytorch'], int(processes))


if __name__ == '__main__':
    sys.exit(main())
