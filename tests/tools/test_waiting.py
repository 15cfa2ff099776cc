"""What a user waits for before anything happens: the parsers and the package itself import nothing that takes seconds."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

import mmvitscale
from mmvitscale.config.embedded import META_KEY, embed_config
from mmvitscale.config.loading import load_config
from mmvitscale.inference import build_model
from tests.helpers.commands import ROOT
from tests.helpers.loaded import load

pytestmark = pytest.mark.integration

TOOLS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / 'tools').rglob('*.py'))
HEAVY = ('torch', 'numpy', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'matplotlib', 'cv2', 'scipy', 'deepspeed')
# Runs a file with arguments as Python does; the exit status, and which of the packages that leaves imported.
RUN = f"""
import json, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name='__main__')
    status = 0
except SystemExit as stop:
    status = stop.code or 0
print(json.dumps([status, [name for name in {HEAVY} if name in sys.modules]]))
"""


def python(code, *arguments, **environment):
    """Runs code in a process of its own; what it printed, and its errors."""
    known = {name: value for name, value in os.environ.items() if name not in ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')}
    result = subprocess.run(
        [sys.executable, '-c', code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**known, 'PYTHONPATH': str(ROOT), **environment},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout, result.stderr


def outcome(*command):
    """Exit status, heavy packages, output and errors of a command line that a parser answers."""
    out, err = python(RUN, *command)
    *said, last = out.splitlines()
    return *json.loads(last), '\n'.join(said), err


@pytest.mark.parametrize('tool', TOOLS)
def test_help_imports_nothing_heavy(tool):
    status, heavy, out, err = outcome(tool, '--help')
    assert status == 0 and out.startswith('usage: ') and not err
    assert heavy == []


@pytest.mark.parametrize('arguments', [['--help'], ['train', '--help'], ['window-transfer', '--help']])
def test_help_of_the_console_script_imports_nothing_heavy(arguments):
    status, heavy, out, err = outcome('mmvitscale/__main__.py', *arguments)
    assert status == 0 and out.startswith('usage: ') and not err
    assert heavy == []


@pytest.mark.parametrize(
    'command, message',
    [
        (['tools/train.py', 'swinv2_upernet_mini', '--no-such-option'], 'unrecognized arguments: --no-such-option'),
        (['tools/train.py', 'swinv2_upernet_mini', '--strategy', 'all'], "invalid choice: 'all'"),
        (['tools/benchmark.py', '--size', '512'], '--size is called --image-size now'),
        (['tools/predict.py', 'a.pth', 'b.png'], 'the following arguments are required: --out'),
        (['tools/dist_run.py'], 'the following arguments are required: tool, config, processes'),
        (['tools/predict.py', 'a.pth', '--out', 'x', '--cfg-options', 'a'], None),
    ],
)
def test_wrong_usage_is_answered_as_soon(command, message):
    status, heavy, _, err = outcome(*command)
    assert heavy == []
    if message is None:
        assert status == 1 and err.startswith('error: --cfg-options a found')
    else:
        assert status == 2 and message in err


def test_the_package_imports_nothing_heavy_and_names_what_it_has():
    code = f'import sys, mmvitscale; print([name for name in {HEAVY} if name in sys.modules], dir(mmvitscale))'
    out, err = python(code)
    assert out.startswith('[] ') and not err
    for name in mmvitscale.__all__:
        assert repr(name) in out, name
        assert getattr(mmvitscale, name).__name__ == name


def test_configs_are_listed_without_mmengine():
    out, _ = python(
        f'import sys, mmvitscale as m; print(m.list_configs("*_mini")[:1], [n for n in {HEAVY} if n in sys.modules])'
    )
    assert out.startswith("['") and out.endswith(' []\n')


@pytest.mark.parametrize('imports', ['import mmvitscale; from mmengine.config import Config', None])
def test_base_names_our_configs_whichever_package_is_imported_first(imports, tmp_path):
    path = tmp_path / 'own.py'
    path.write_text("_base_ = 'mmvitscale::swinv2_upernet_mini'\n")
    imports = imports or 'from mmengine.config import Config; import mmvitscale'
    out, _ = python(f'{imports}; print(Config.fromfile({str(path)!r}).model.type)')
    assert out == 'EncoderDecoder\n'


@pytest.fixture(scope='module')
def segmentor(tmp_path_factory):
    """A checkpoint with its config, and an image."""
    folder = tmp_path_factory.mktemp('segmentor')
    cfg = load_config('swinv2_upernet_mini')
    content = dict(state_dict=build_model(load('swinv2_upernet_mini')).state_dict(), meta={META_KEY: embed_config(cfg)})
    torch.save(content, folder / 'a.pth')
    cv2.imwrite(str(folder / 'a.png'), np.zeros((64, 64, 3), np.uint8))
    return folder


@pytest.mark.parametrize('config', [[], ['swinv2_upernet_mini']])
def test_a_segmentor_predicts_without_packages_that_it_does_not_need(segmentor, config, tmp_path):
    unneeded = ('mmdet', 'mmpretrain', 'deepspeed', 'transformers', 'mlflow', 'matplotlib.pyplot', 'onnx', 'pycocotools')
    code = RUN.replace(str(HEAVY), str((*unneeded, 'mmseg')))
    checkpoint, image = str(segmentor / 'a.pth'), str(segmentor / 'a.png')
    out, _ = python(code, 'tools/predict.py', *config, checkpoint, image, '--out', str(tmp_path / 'out'))
    assert json.loads(out.splitlines()[-1]) == [0, ['mmseg']]
    assert (tmp_path / 'out/a.png').is_file()


# A tool, up to the moment at which PyTorch loads the OpenMP library, which says what it found in its environment.
TOOL = """
from mmvitscale.cli import run_command
def work(args):
    import torch
    print(torch.__config__.parallel_info())
run_command(lambda: None, work)
"""


def spins(code=TOOL, **environment):
    """GNU's OpenMP's own report of its spin count."""
    out, err = python(code, OMP_DISPLAY_ENV='VERBOSE', **environment)
    found = [line.split("'")[1] for line in err.splitlines() if 'GOMP_SPINCOUNT' in line]
    if not found:
        assert 'GOMP' not in out + err and 'KMP_' in err, 'an OpenMP library of neither kind'
        pytest.skip("this PyTorch has LLVM's or Intel's OpenMP, to which the variable says nothing")
    return found[-1]


def test_threads_of_tools_spin_a_short_while():
    assert spins() == '10000'


def test_how_long_threads_spin_is_the_users_choice():
    assert spins(GOMP_SPINCOUNT='77') == '77'
    assert spins(OMP_WAIT_POLICY='PASSIVE') == '0'
    assert spins(TOOL.replace('from', 'import torch\nfrom', 1)) != '10000'  # too late, so not claimed
