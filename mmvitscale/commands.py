"""What the command-line tools share: how they end, where they write."""

import sys
import tempfile
from pathlib import Path
from typing import Callable, Optional, Union

from mmengine.config import Config

from .errors import InputError
from .machine import is_first_process


def run_command(main: Callable[[], Optional[int]]) -> None:
    """Run a tool and exit with its status: 0, or 1 after one line on stderr if the input cannot work."""
    try:
        sys.exit(main() or 0)
    except InputError as error:
        if is_first_process():
            print(f'error: {error}', file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def use_work_dir(cfg: Config, work_dir: Optional[str]) -> None:
    """Where logs and checkpoints go: the option, else the config's ``work_dir``, else work_dirs/<config name>."""
    cfg.work_dir = work_dir or cfg.get('work_dir') or str(Path('work_dirs', Path(cfg.filename).stem))
    check_writable(cfg.work_dir)


def check_writable(folder: Union[str, Path]) -> Path:
    """Make the folder if need be. Raises InputError unless files can be written into it."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f'cannot write into {folder} ({error.strerror}); give a folder that can be written') from error
    return Path(folder)
