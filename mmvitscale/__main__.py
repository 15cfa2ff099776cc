"""``python -m mmvitscale TOOL ...``: the tools, from a wheel as from a checkout."""

import runpy
import sys

from .config import configs_folder

TOOLS = configs_folder().parent / 'tools'


def main() -> None:
    """Run the tool that the first argument names, with the others."""
    names = sorted(path.stem for path in TOOLS.glob('*.py'))
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        found = f'unknown tool {sys.argv[1]!r}' if len(sys.argv) > 1 else 'no tool'
        print(f'error: {found}; say python -m mmvitscale and one of {", ".join(names)}', file=sys.stderr)
        sys.exit(2)
    path = TOOLS / f'{sys.argv[1]}.py'
    sys.argv = [str(path), *sys.argv[2:]]
    runpy.run_path(str(path), run_name='__main__')


if __name__ == '__main__':
    main()
