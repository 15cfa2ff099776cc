"""What is in the wheel, and that it works where no checkout is."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from mmvitscale.datasets import mini
from tests.helpers.commands import FOREGROUND, ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp('wheel')
    sources = folder / 'source'  # building in place would leave files in the checkout
    for name in ('mmvitscale', 'configs', 'tools'):
        shutil.copytree(ROOT / name, sources / name)
    for name in ('setup.py', 'README.md', 'model-index.yml', 'constraints.txt'):
        shutil.copy(ROOT / name, sources)
    subprocess.run(
        [
            sys.executable,
            '-m',
            'pip',
            'wheel',
            '--quiet',
            '--no-deps',
            '--no-build-isolation',
            '--no-index',
            '--wheel-dir',
            str(folder),
            str(sources),
        ],
        check=True,
    )
    shutil.rmtree(sources)
    return next(folder.glob('mmvitscale-*.whl'))


def test_configs_and_tools_travel_in_the_wheel(wheel):
    packed = set(zipfile.ZipFile(wheel).namelist())
    for folder in ('configs', 'tools'):
        for path in (ROOT / folder).rglob('*'):
            if path.is_file() and '__pycache__' not in path.parts:
                assert f'mmvitscale/.mim/{path.relative_to(ROOT).as_posix()}' in packed
    for path in (ROOT / 'mmvitscale').rglob('*.py'):
        assert path.relative_to(ROOT).as_posix() in packed
    assert {'mmvitscale/.mim/model-index.yml', 'mmvitscale/.mim/constraints.txt'} <= packed


@pytest.fixture
def run(wheel, tmp_path):
    """Runs Python in an empty folder with the wheel's content in place of the checkout's."""
    site = tmp_path / 'site'
    zipfile.ZipFile(wheel).extractall(site)
    (tmp_path / 'user').mkdir()

    def run(*command, expect=0):
        result = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=tmp_path / 'user',
            capture_output=True,
            text=True,
            env={**os.environ, 'PYTHONPATH': str(site), 'OMP_NUM_THREADS': '2'},
        )
        assert result.returncode == expect, result.stdout + result.stderr
        return result

    return run


def test_a_users_config_inherits_and_trains_from_the_wheel(run, tmp_path):
    scenes = mini.write_dataset(tmp_path / 'mini', train=4, val=2, size=64)
    found = run('-c', 'import mmvitscale as m; print(m.__file__); print(m.load_config("swinv2_upernet_ade20k").filename)')
    assert found.stdout.splitlines() == [
        f'{tmp_path}/site/mmvitscale/__init__.py',
        f'{tmp_path}/site/mmvitscale/.mim/configs/swinv2_upernet_ade20k.py',
    ]
    (tmp_path / 'user/own.py').write_text(
        "_base_ = 'mmvitscale::swinv2_upernet_ade20k'\n"
        'arch = dict(_delete_=True, embed_dims=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))\n'
        'model = dict(data_preprocessor=dict(size=(64, 64)), backbone=dict(arch=arch, init_cfg=None),\n'
        '             decode_head=dict(in_channels=[16, 32, 64, 128], channels=16),\n'
        '             auxiliary_head=dict(in_channels=64, channels=16))\n'
    )
    run(
        '-m',
        'mmvitscale',
        'train',
        'own.py',
        '--cfg-options',
        f'data_root={scenes}/ADEChallengeData2016',
        'train_cfg.max_iters=2',
        'train_dataloader.dataset.pipeline.3.crop_size=(64,64)',
        *FOREGROUND,
        'default_hooks.checkpoint.interval=2',
    )
    assert (tmp_path / 'user/work_dirs/own/iter_2.pth').is_file()


def test_install_mmcv_ops_knows_the_tested_version_in_the_wheel(run, tmp_path):
    tool = tmp_path / 'site/mmvitscale/.mim/tools/install_mmcv_ops.py'
    pinned = next(line for line in (ROOT / 'constraints.txt').read_text().splitlines() if line.startswith('onedl-mmcv'))
    assert run('-c', f'import runpy; print(runpy.run_path({str(tool)!r})["pinned"]())').stdout.strip() == pinned


def test_an_unknown_or_missing_tool_name_is_refused(run):
    assert (
        "error: unknown tool 'trian'; say mmvitscale and one of amplitude, "
        in run('-m', 'mmvitscale', 'trian', expect=2).stderr
    )
    assert 'error: no tool; say' in run('-m', 'mmvitscale', expect=2).stderr
