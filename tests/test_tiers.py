"""Every test is in exactly one tier, and a unit test keeps to what its tier promises."""

import pytest

pytestmark = pytest.mark.unit

SETTINGS = """
[pytest]
addopts = --strict-markers -p no:cacheprovider
markers =
    unit
    integration
    slow
"""


@pytest.fixture
def project(pytester, monkeypatch):
    """A project of one file of tests, with our plugin and no other."""
    monkeypatch.setenv('PYTEST_DISABLE_PLUGIN_AUTOLOAD', '1')
    pytester.makeini(SETTINGS)
    pytester.makeconftest("pytest_plugins = ['tests.helpers.tiers']")
    return pytester


def selected(project, tier):
    result = project.runpytest_inprocess('--collect-only', '-q', '-m', tier)
    return [line.split('::')[1] for line in result.outlines if '::' in line]


def test_the_nearest_marker_decides_and_selects_alone(project):
    project.makepyfile("""
        import pytest
        pytestmark = pytest.mark.unit
        def test_of_the_file(): pass
        @pytest.mark.slow
        def test_of_its_own(): pass
        @pytest.mark.integration
        @pytest.mark.parametrize('x', [1, pytest.param(2, marks=pytest.mark.slow)])
        def test_of_its_parameter(x): pass
    """)
    assert selected(project, 'unit') == ['test_of_the_file']
    assert selected(project, 'integration') == ['test_of_its_parameter[1]']
    assert selected(project, 'slow') == ['test_of_its_own', 'test_of_its_parameter[2]']
    assert len(selected(project, 'unit or slow')) == 3


@pytest.mark.parametrize(
    'markers, message',
    [
        ('', '*test_a is in no tier; mark it, or its file, with one of pytest.mark.unit, *'),
        ('@pytest.mark.unit\n@pytest.mark.slow', '*test_a is in the tiers slow and unit; leave one of the markers*'),
    ],
)
def test_a_test_in_no_tier_or_in_two_is_refused(markers, message, project):
    project.makepyfile(f'import pytest\n{markers}\ndef test_a(): pass')
    result = project.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


@pytest.mark.parametrize('tier', ['unit', 'unit or integration', 'slow'])
def test_a_file_that_names_no_tier_is_refused_whatever_is_selected(tier, project):
    project.makepyfile('def test_a(): pass')
    assert project.runpytest_inprocess('-m', tier).ret == pytest.ExitCode.USAGE_ERROR


def test_files_without_a_test_of_the_tier_are_not_imported(project):
    project.makepyfile(
        test_unit='import pytest\npytestmark = pytest.mark.unit\ndef test_a(): pass',
        test_other='raise ImportError("pytest.mark.integration")',
    )
    project.runpytest_inprocess('-m', 'unit').assert_outcomes(passed=1)
    project.runpytest_inprocess('-m', 'integration').assert_outcomes(errors=1)


@pytest.mark.parametrize(
    'line, fails',
    [
        ('import mmdet', True),
        ('from mmseg.structures import SegDataSample', True),
        ('import timm.models', True),
        ('import subprocess; subprocess.run(["true"])', True),
        ('import os; os.fork()', True),
        ('import multiprocessing as m; m.Process(target=print).start()', True),
        ('import mmengine', False),
    ],
)
def test_unit_tests_start_no_process_and_import_no_task_package(line, fails, project):
    project.makepyfile(f'import pytest\n@pytest.mark.unit\ndef test_a():\n    {line}')
    project.runpytest_inprocess().assert_outcomes(passed=int(not fails), failed=int(fails))


def test_modules_hidden_from_a_unit_test_come_back(project):
    project.makepyfile("""
        import sys, types
        import pytest
        sys.modules['openvino'] = module = types.ModuleType('openvino')
        @pytest.mark.unit
        def test_a():
            with pytest.raises(ImportError):
                import openvino
        @pytest.mark.integration
        def test_b():
            import openvino
            assert openvino is module
            del sys.modules['openvino']
    """)
    project.runpytest_inprocess().assert_outcomes(passed=2)
