import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_configs_and_tools_travel_in_the_wheel(tmp_path):
    sources = tmp_path / 'source'  # building in place would leave files in the checkout
    for name in ('mmvitscale', 'configs', 'tools'):
        shutil.copytree(ROOT / name, sources / name)
    for name in ('setup.py', 'README.md'):
        shutil.copy(ROOT / name, sources)
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation', '--no-index',
                    '--wheel-dir', str(tmp_path), str(sources)], check=True)
    wheel, = tmp_path.glob('mmvitscale-*.whl')
    packed = set(zipfile.ZipFile(wheel).namelist())
    for folder in ('configs', 'tools'):
        for path in (ROOT / folder).rglob('*'):
            if path.is_file() and '__pycache__' not in path.parts:
                assert f'mmvitscale/.mim/{path.relative_to(ROOT).as_posix()}' in packed
    for path in (ROOT / 'mmvitscale').rglob('*.py'):
        assert path.relative_to(ROOT).as_posix() in packed
