"""Imports point one way: a room never needs the rooms above it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

PACKAGE = Path(__file__).parents[1] / 'mmvitscale'

# From the ground up. A room may import from its own line and from those above it in this list.
FLOORS = [
    {'errors'},
    {'registry', 'utils'},
    {'checkpoints'},
    {'models'},
    {'config'},
    {'datasets'},
    {'export'},
    {'inference'},
    {'profiling'},
    {'analysis'},
    {'autoconfig'},
    {'engine'},
    {'cli'},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def imported_rooms(path):
    """The rooms that a file of the package imports from, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            # 'from ..models.layers import x' in mmvitscale/engine/hooks/a.py -> ('mmvitscale', 'models', 'layers')
            base = path.relative_to(PACKAGE.parent).parts[: -node.level] if node.level else ()
            parts = (*base, *(node.module or '').split('.'))
            names = [parts] if len(parts) > 1 and parts[1] else [(*base, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [tuple(alias.name.split('.')) for alias in node.names]
        else:
            continue
        yield from (name[1] for name in names if name[0] == 'mmvitscale' and len(name) > 1)


def test_every_module_is_assigned_to_a_layer():
    rooms = {
        path.stem if path.is_file() else path.name
        for path in PACKAGE.iterdir()
        if path.suffix == '.py' and not path.stem.startswith('__') or (path / '__init__.py').is_file()
    }
    assert rooms == set(FLOOR)


@pytest.mark.parametrize('room', sorted(FLOOR))
def test_no_module_imports_from_a_higher_layer(room):
    files = [PACKAGE / f'{room}.py'] if (PACKAGE / f'{room}.py').is_file() else list((PACKAGE / room).rglob('*.py'))
    found = {(str(path.relative_to(PACKAGE)), other) for path in files for other in imported_rooms(path)}
    assert not [pair for pair in found if FLOOR[pair[1]] > FLOOR[room]]
    if room not in ('errors', 'registry', 'torchvision_shim', 'atomic_write'):
        assert found, 'nothing was read'


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
