"""Imports point one way, and the code map (docs/code_map.md) names every module once."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'mmvitscale'
MAP = (ROOT / 'docs/code_map.md').read_text()

# The packages as the code map lists them: each may import from its own line and from those below it.
LINES = [re.findall(r'`(?:mmvitscale/)?(\w+)(?:\.py)?`', line) for line in re.findall(r'^### (.*)$', MAP, re.M)]
LEVEL = {package: level for level, packages in enumerate(reversed(LINES)) for package in packages}


def imported_rooms(path):
    """The rooms that a file of the package imports from, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            # 'from ..models.layers import x' in mmvitscale/hooks/a.py -> ('mmvitscale', 'models', 'layers')
            base = path.relative_to(PACKAGE.parent).parts[: -node.level] if node.level else ()
            parts = (*base, *(node.module or '').split('.'))
            names = [parts] if len(parts) > 1 and parts[1] else [(*base, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [tuple(alias.name.split('.')) for alias in node.names]
        else:
            continue
        yield from (name[1] for name in names if name[0] == 'mmvitscale' and len(name) > 1)


def modules():
    return [path for path in sorted(PACKAGE.rglob('*.py')) if path.name != '__init__.py']


def test_the_code_map_names_every_module_once():
    named = re.findall(r'`(mmvitscale/[\w/]+\.py)`', re.sub(r'^(###|To start|`mm).*$', '', MAP, flags=re.M))
    named = [name for name in named if not name.endswith('__init__.py')]
    assert sorted(named) == [path.relative_to(ROOT).as_posix() for path in modules()]


def test_every_path_of_the_code_map_exists():
    paths = re.findall(r'`((?:mmvitscale|configs|tools|tests|docs)/[\w./*]*)`', MAP)
    assert len(paths) > 120
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_the_code_map_lists_every_package():
    """Sixteen entries at the most."""
    entries = {path.stem for path in PACKAGE.iterdir() if path.suffix == '.py' or (path / '__init__.py').is_file()}
    assert entries - {'__init__'} == set(LEVEL) and len(entries) <= 16


def imported_modules(path):
    """The files of the package that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names = [f'{node.module}.{alias.name}' for alias in node.names] + [node.module or '']
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            file = ROOT.joinpath(*name.split('.')).with_suffix('.py')
            if name.startswith('mmvitscale.') and file.is_file():
                yield file


def test_no_file_imports_itself_in_a_circle():
    arrows = {path: set(imported_modules(path)) for path in modules()}
    while True:  # take away what imports nothing that is left
        leaves = {path for path, targets in arrows.items() if not targets & set(arrows)}
        if not leaves:
            break
        arrows = {path: targets for path, targets in arrows.items() if path not in leaves}
    assert not arrows


@pytest.mark.parametrize('package', sorted(LEVEL))
def test_no_package_imports_from_a_higher_one(package):
    files = [PACKAGE / f'{package}.py'] if (PACKAGE / f'{package}.py').is_file() else list((PACKAGE / package).rglob('*.py'))
    found = {(str(path.relative_to(PACKAGE)), other) for path in files for other in imported_rooms(path)}
    assert not [pair for pair in found if LEVEL[pair[1]] > LEVEL[package]]
    if package not in ('errors', 'registry'):
        assert found, 'nothing was read'


def functions_of(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield node


def test_no_function_has_more_than_fifty_lines():
    """Its docstring aside."""
    long = []
    for path in [*PACKAGE.rglob('*.py'), *(ROOT / 'tools').rglob('*.py')]:
        for function in functions_of(ast.parse(path.read_text())):
            described = ast.get_docstring(function, clean=False) is not None
            described_lines = function.body[0].end_lineno - function.body[0].lineno + 1 if described else 0
            if function.end_lineno - function.lineno + 1 - described_lines > 50:
                long.append(f'{path.name} {function.name}')
    assert not long


@pytest.mark.integration
def test_the_library_loads_no_command_line():
    """As Python sees it: what ``models``, ``checkpoints``, ``hooks`` and the runner bring with them."""
    code = 'import mmvitscale.models, mmvitscale.checkpoints.pretrained, mmvitscale.engine.hooks, mmvitscale.engine.runner'
    result = subprocess.run([sys.executable, '-X', 'importtime', '-c', code], capture_output=True, text=True)
    assert result.returncode == 0 and 'mmvitscale.checkpoints.loading' in result.stderr
    assert 'mmvitscale.cli' not in result.stderr


@pytest.mark.integration
def test_models_and_checkpoints_import_no_openmmlab_task_package():
    code = (
        'import sys; import mmvitscale.models, mmvitscale.checkpoints.window_policy, mmvitscale.analysis.extrapolation; '
        "print([name for name in sys.modules if name.split('.')[0] in ('mmdet', 'mmseg', 'mmcv', 'mmpretrain')])"
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.stdout.strip() == '[]', result.stderr


def public_functions(node, public=True, prefix=''):
    """(name, function) of a module's public functions, and of its public classes' public methods, constructors and calls."""
    for item in node.body:
        if isinstance(item, ast.ClassDef):
            yield from public_functions(item, public and not item.name.startswith('_'), f'{prefix}{item.name}.')
        elif (
            isinstance(item, ast.FunctionDef)
            and public
            and (not item.name.startswith('_') or item.name in ('__init__', '__call__'))
        ):
            yield prefix + item.name, item


def test_public_functions_have_hints_and_docstrings():
    """Constructors are described by their class, and so is what a module computes."""
    seen, bare = 0, []
    for path in sorted(PACKAGE.rglob('*.py')):
        tree = ast.parse(path.read_text())
        name = str(path.relative_to(PACKAGE))
        bare += [name] if not ast.get_docstring(tree) else []
        bare += [
            f'{name} {item.name}'
            for item in tree.body
            if isinstance(item, ast.ClassDef) and not item.name.startswith('_') and not ast.get_docstring(item)
        ]
        for function, item in public_functions(tree):
            seen += 1
            arguments = item.args
            given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
            hinted = all(one is None or one.annotation or one.arg in ('self', 'cls') for one in given)
            hinted = hinted and (item.returns is not None or item.name == '__init__')
            described = ast.get_docstring(item) or item.name in ('__init__', '__call__', 'forward')
            bare += [f'{name} {function}'] if not (hinted and described) else []
    assert seen > 300
    assert not bare


@pytest.mark.integration
def test_the_package_imports_without_a_warning():
    result = subprocess.run([sys.executable, '-W', 'error', '-c', 'import mmvitscale'], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
