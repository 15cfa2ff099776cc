"""``python -m mmvitscale TOOL ...``: the tools, from a wheel as from a checkout."""

import runpy
import sys

from mmvitscale.config.loading import configs_folder

TOOLS = configs_folder().parent / 'tools'


def main() -> None:
    """Run the tool that the first argument names, with the others."""
    tools = {path.stem: path for path in sorted(TOOLS.rglob('*.py'))}
    name = sys.argv[1].removeprefix('analysis/').removesuffix('.py') if len(sys.argv) > 1 else ''
    if name not in tools:
        found = f'unknown tool {sys.argv[1]!r}' if len(sys.argv) > 1 else 'no tool'
        print(f'error: {found}; say python -m mmvitscale and one of {", ".join(tools)}', file=sys.stderr)
        sys.exit(2)
    sys.argv = [str(tools[name]), *sys.argv[2:]]
    runpy.run_path(str(tools[name]), run_name='__main__')


if __name__ == '__main__':
    main()
