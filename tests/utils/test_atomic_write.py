import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmvitscale.checkpoints.io import write_atomically
from mmvitscale.errors import InputError
from mmvitscale.utils.atomic_write import atomic_write, remove_partial_files

pytestmark = pytest.mark.unit


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / 'a.pth'
    path.write_bytes(b'old')

    def write(file):
        file.write(b'new')
        file.flush()
        assert path.read_bytes() == b'old'

    write_atomically(path, write)
    assert path.read_bytes() == b'new' and list(tmp_path.iterdir()) == [path]


@pytest.mark.integration
def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / 'a.pth'
    path.write_bytes(b'old')
    code = (
        'import os, signal; from mmvitscale.checkpoints.io import write_atomically; from pathlib import Path\n'
        'def write(file):\n'
        "    file.write(b'new'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
        f"write_atomically(Path('{path}'), write)"
    )
    assert subprocess.run([sys.executable, '-c', code]).returncode == -signal.SIGKILL
    assert path.read_bytes() == b'old'
    assert len(list(tmp_path.iterdir())) == 2
    remove_partial_files(tmp_path, '.pth')
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('code', ['ENOSPC', 'EROFS', 'EACCES', 'EDQUOT'])
def test_os_errors_while_writing_are_reported_and_leave_no_file(code, tmp_path):
    def write(file):
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    with pytest.raises(InputError, match=rf'cannot write .*a.pth \({os.strerror(getattr(errno, code))}'):
        write_atomically(tmp_path / 'a.pth', write)
    assert not list(tmp_path.iterdir())


def test_errors_unrelated_to_the_file_are_not_translated(tmp_path):
    with pytest.raises(ConnectionResetError), atomic_write(tmp_path / 'a'):
        raise ConnectionResetError(errno.ECONNRESET, 'reset')
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / 'a'):
        Path('/nowhere/of/mine').read_bytes()


def test_a_full_disk_during_torch_save_is_reported(tmp_path):
    """Its writer loses the error of the file, and reports positions."""

    class Full:
        def write(self, content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def flush(self):
            pass

    with pytest.raises(InputError, match='No space left'), atomic_write(tmp_path / 'a.pth'):
        torch.save(dict(a=torch.ones(10)), Full())


@pytest.mark.parametrize(
    'name', ['n' * 251 + '.png', 'ü' * 125 + '.json', '図' * 84 + '.p', 'a.' + 'b' * 253, 'x' * 255, 'a.pth']
)
def test_whatever_name_fits_can_be_written(name, tmp_path):
    with atomic_write(tmp_path / name) as part:
        part.write_text('new')
        assert part.suffix == (Path(name).suffix if 1 < len(Path(name).suffix) < 30 else '.part')
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(InputError, match='cannot write .*File name too long'), atomic_write(tmp_path / ('x' * 256)) as part:
        part.write_text('new')
    assert len(list(tmp_path.iterdir())) == 1
