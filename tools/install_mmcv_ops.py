"""Give the running Python mmcv's compiled ops (NMS, RoIAlign, ...), which detection needs.

Tries, in this order: ops that are there already, a wheel built earlier by this command, a prebuilt wheel for this
PyTorch and CUDA, and compiling (about 15 minutes on 2 cores, once: the wheel is kept).
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = 'onedl-mmcv'
CHECK = (
    'import torch; from mmcv.ops import nms; '
    'assert len(nms(torch.tensor([[0., 0, 9, 9], [0, 0, 8, 9]]), torch.tensor([.9, .8]), .5)[1]) == 1'
)
# nms(CUDA tensors) too where there is a GPU: ops compiled without CUDA are of no use there.
CHECK_CUDA = CHECK.replace('9]])', '9]]).cuda()').replace('.8])', '.8]).cuda()')


def pip(*args, **kwargs):
    command = [sys.executable, '-m', 'pip', '--disable-pip-version-check', *args]
    return subprocess.run(command, text=True, **kwargs)


def ops_work():
    import torch

    check = CHECK_CUDA if torch.cuda.is_available() else CHECK
    return subprocess.run([sys.executable, '-c', check], capture_output=True).returncode == 0


def install(wheel_folder, requirement):
    """Install mmcv, and nothing else, from a folder of wheels."""
    return (
        pip(
            'install', '--quiet', '--no-index', '--no-deps', '--force-reinstall', '--find-links', str(wheel_folder), requirement
        ).returncode
        == 0
    )


def pinned():
    """The requirement with the version of constraints.txt."""
    return next(line for line in (ROOT / 'constraints.txt').read_text().splitlines() if line.startswith(PACKAGE))


def wheel_folder(requirement):
    """Where the wheel for this mmcv, PyTorch, CUDA and Python is kept: an op is compiled against all of them."""
    import torch

    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    cuda = f'cu{torch.version.cuda}' if torch.version.cuda and torch.cuda.is_available() else 'cpu'
    python = f'cp{sys.version_info.major}{sys.version_info.minor}'
    version = requirement.split('==')[1]
    return cache / 'mmvitscale' / f'mmcv-{version}-torch{torch.__version__}-{cuda}-{python}-{platform.machine()}'


def download_prebuilt(folder, requirement):
    """Fetch the maintainers' wheel for this PyTorch and CUDA, if they have one."""
    import torch

    major, minor, patch = re.match(r'(\d+)\.(\d+)\.(\d+)', torch.__version__).groups()
    device = 'cu' + torch.version.cuda.replace('.', '') if torch.version.cuda else 'cpu'
    index = f'https://mmwheels.onedl.ai/{device}-torch{major}{minor}{patch}/simple'
    arguments = ['--only-binary', ':all:', '--no-deps', '--retries', '0', '--timeout', '10', '--no-cache-dir']
    # --isolated: indexes and wheel folders configured on this machine may hold an mmcv without ops.
    result = pip(
        'download', '--isolated', *arguments, '--index-url', index, '--dest', str(folder), requirement, capture_output=True
    )
    return result.returncode == 0


def compile_ops(folder, requirement):
    """Compile the ops, printing one line of progress a minute."""
    if shutil.which(os.environ.get('CXX', 'c++')) is None:
        sys.exit(
            'error: no C++ compiler found, and no prebuilt wheel of mmcv fits; install one (Debian: apt install '
            'g++) and run this again'
        )
    print('Compiling the ops of mmcv: about 15 minutes on 2 cores, once ...', flush=True)
    if pip('install', '--quiet', 'setuptools<82', 'wheel', 'packaging', 'ninja', 'psutil').returncode:
        sys.exit('error: the build tools of mmcv could not be installed; see the lines above')
    environment = {**os.environ, 'MMCV_WITH_OPS': '1', 'MAX_JOBS': os.environ.get('MAX_JOBS', str(os.cpu_count()))}
    command = [
        sys.executable,
        '-m',
        'pip',
        '-v',
        'wheel',
        '--no-build-isolation',
        '--no-deps',
        '--no-cache-dir',
        '--no-binary',
        PACKAGE,
        '--wheel-dir',
        str(folder),
        requirement,
    ]
    start = last = time.monotonic()
    log = folder / 'build.log'
    with log.open('w') as file:
        process = subprocess.Popen(
            command, env=environment, text=True, errors='replace', stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for line in process.stdout:
            file.write(line)
            step = re.match(r'\s*\[(\d+)/(\d+)\]', line)
            if step and time.monotonic() - last > 60:
                last = time.monotonic()
                print(f'  {step[1]} of {step[2]} files, {(last - start) / 60:.0f} minutes', flush=True)
    if process.wait():
        print(''.join(log.read_text().splitlines(keepends=True)[-30:]), file=sys.stderr)
        sys.exit(f'error: mmcv did not compile; the whole log is {log}')
    print(f'Compiled in {(time.monotonic() - start) / 60:.0f} minutes; the wheel is kept in {folder}', flush=True)


def parse_args():
    return argparse.ArgumentParser(description=__doc__).parse_args()


def main(args):
    if ops_work():
        print("mmcv's ops are there already")
        return
    requirement = pinned()
    folder = wheel_folder(requirement)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob('*.whl')) and install(folder, requirement) and ops_work():
        print(f"mmcv's ops installed from {folder}")
        return
    for old in folder.glob('*.whl'):
        old.unlink()
    if download_prebuilt(folder, requirement) and install(folder, requirement) and ops_work():
        print("mmcv's ops installed from a prebuilt wheel")
        return
    for old in folder.glob('*.whl'):
        old.unlink()
    compile_ops(folder, requirement)
    if not (install(folder, requirement) and ops_work()):
        sys.exit(f'error: mmcv compiled, but its ops do not run; the log is {folder / "build.log"}')


if __name__ == '__main__':
    main(parse_args())
