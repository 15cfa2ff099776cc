"""The three tiers of tests, as pytest markers. Every test is in exactly one.

unit          no process is started; mmdet, mmseg and mmpretrain are not imported
integration   commands and whole models, in small
slow          several processes, kills, trainings that must learn, full matrices, builds at full size

``pytest.mark.TIER`` stands on a test, on one of its parameters, or on the file (``pytestmark``); the nearest one counts.
"""

import multiprocessing.process
import os
import re
import subprocess
import sys
from collections import OrderedDict

import pytest
from mmengine.registry import DefaultScope

from mmvitscale.utils.torchvision_shim import make_torchvision_importable

TIERS = ('unit', 'integration', 'slow')
# What `make test-fast` does not install. To a unit test these count as not installed, wherever it runs.
NOT_FOR_UNIT_TESTS = (
    'mmdet',
    'mmseg',
    'mmpretrain',
    'pycocotools',
    'timm',
    'torchvision',
    'transformers',
    'deepspeed',
    'onnx',
    'onnxruntime',
    'openvino',
    'rasterio',
)


def tier_of(item: pytest.Item) -> str:
    """The tier of a test: of its parameters, else of its function, its class, its file.

    Raises:
        pytest.UsageError: None of them names a tier, or the nearest that does names two.
    """
    of_parameters = item.callspec.marks if hasattr(item, 'callspec') else []
    of_nodes = [[mark for mark in node.own_markers if mark not in of_parameters] for node in reversed(item.listchain())]
    for marks in (of_parameters, *of_nodes):
        tiers = [mark.name for mark in marks if mark.name in TIERS]
        if len(set(tiers)) > 1:
            raise pytest.UsageError(f'{item.nodeid} is in the tiers {" and ".join(tiers)}; leave one of the markers')
        if tiers:
            return tiers[0]
    raise pytest.UsageError(
        f'{item.nodeid} is in no tier; mark it, or its file, with one of ' + ', '.join(f'pytest.mark.{tier}' for tier in TIERS)
    )


def _hide_packages() -> dict:
    """Make imports of what unit tests do without fail; returns the modules that were loaded, to put them back."""
    hidden = {}
    if any(sys.modules.get(package) for package in NOT_FOR_UNIT_TESTS):
        names = [name for name in sys.modules if name.split('.')[0] in NOT_FOR_UNIT_TESTS]
        hidden = {name: sys.modules.pop(name) for name in names}
    sys.modules.update(dict.fromkeys(NOT_FOR_UNIT_TESTS))  # None: an import fails as if the package were not installed
    return hidden


def _no_process(*args, **kwargs):
    raise AssertionError('a unit test starts no process; mark the test integration or slow')


def _unit_tests_alone(config: pytest.Config) -> bool:
    """Whether ``-m`` selects nothing but unit tests."""
    return config.option.markexpr.split(' and ')[0].strip() == 'unit'


def pytest_configure(config: pytest.Config) -> None:
    if _unit_tests_alone(config):
        _hide_packages()
    else:
        make_torchvision_importable()  # before a test file imports what would import it


def pytest_ignore_collect(collection_path, config: pytest.Config):
    """Where only some tiers are asked for, files that name others alone are not imported. One that names none is: it is refused
    then."""
    wanted = {'unit'} if _unit_tests_alone(config) else set(re.split(r'\s+or\s+', config.option.markexpr.strip()))
    if not wanted <= set(TIERS) or collection_path.suffix != '.py':
        return None
    named = set(re.findall(r'mark\.(\w+)', collection_path.read_text())) & set(TIERS)
    return True if named and not named & wanted else None


@pytest.hookimpl(tryfirst=True)  # before pytest selects by -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave each test the marker of its own tier alone, so that ``-m unit`` selects what is said here."""
    tiers = {item: tier_of(item) for item in items}
    for item in items:
        for node in item.listchain():
            node.own_markers[:] = [mark for mark in node.own_markers if mark.name not in TIERS]
    for item, tier in tiers.items():
        item.add_marker(tier)


@pytest.fixture(autouse=True)
def unit_isolation(request, monkeypatch):
    """What a unit test may not do fails in it, whichever tests ran before in the same process."""
    if request.node.get_closest_marker('unit') is None:
        yield
        return
    for owner, name in ((subprocess.Popen, '__init__'), (os, 'fork'), (multiprocessing.process.BaseProcess, 'start')):
        monkeypatch.setattr(owner, name, _no_process)
    monkeypatch.setattr(DefaultScope, '_instance_dict', OrderedDict())  # no scope of an earlier test
    hidden = _hide_packages()
    try:
        yield
    finally:
        if not _unit_tests_alone(request.config):
            for package in NOT_FOR_UNIT_TESTS:
                sys.modules.pop(package, None)
            sys.modules.update(hidden)
