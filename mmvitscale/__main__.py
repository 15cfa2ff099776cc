"""The command ``mmvitscale TOOL ...`` (``python -m mmvitscale TOOL ...``): the tools, from a wheel as from a checkout."""

import ast
import runpy
import sys
from pathlib import Path

from mmvitscale.config.names import configs_folder

TOOLS = configs_folder().parent / 'tools'

_FIRST = ('new-config', 'train', 'test', 'predict', 'export', 'report', 'convert-dataset', 'convert-checkpoint', 'benchmark')


def main() -> None:
    """Run the tool that the first argument names, with the others."""
    tools = {path.stem.replace('_', '-'): path for path in sorted(TOOLS.rglob('*.py'))}
    if sys.argv[1:2] in (['-h'], ['--help']):
        _print_help(tools)
        return
    name = sys.argv[1].removeprefix('analysis/').removesuffix('.py').replace('_', '-') if len(sys.argv) > 1 else ''
    if name not in tools:
        found = f'unknown tool {sys.argv[1]!r}' if len(sys.argv) > 1 else 'no tool'
        print(f'error: {found}; say mmvitscale and one of {", ".join(tools)}', file=sys.stderr)
        sys.exit(2)
    sys.argv = [str(tools[name]), *sys.argv[2:]]
    runpy.run_path(str(tools[name]), run_name='__main__')


def _print_help(tools: dict[str, Path]) -> None:
    print('usage: mmvitscale TOOL ...')
    others = [name for name in tools if name not in _FIRST]
    for title, names in (('from data to a model and its predictions', _FIRST), ('further tools', others)):
        print(f'\n{title}:')
        print('\n'.join(f'  {name:22s}{_purpose(tools[name])}' for name in names))
    print('\nmmvitscale TOOL --help describes one.')


def _purpose(path: Path) -> str:
    """The first sentence of a tool's docstring."""
    text = ' '.join((ast.get_docstring(ast.parse(path.read_text('utf-8'))) or '').split())
    sentence = text.split('. ')[0].split(': ')[0].rstrip('.')
    return sentence if len(sentence) <= 90 else f'{sentence[:87]}...'


if __name__ == '__main__':
    main()
