"""Checkpoints of a training: the new one is complete before an old one is removed, and the best has a name that stays."""

import os
import shutil
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mmengine.hooks
from mmengine.dist import is_main_process
from mmengine.fileio.backends import LocalBackend
from mmengine.runner import Runner

from mmvitscale.checkpoints.resume import write_last_checkpoint
from mmvitscale.config.training_options import less_is_better, main_metric
from mmvitscale.errors import InputError
from mmvitscale.registry import HOOKS
from mmvitscale.utils.atomic_write import SAVING_FAILED, is_abandoned, owner, remove_partial_files
from mmvitscale.utils.cpu import return_free_memory

# In the work folder while a checkpoint is written.
_FOLDER = '.last_checkpoint-'
# A second name of the best checkpoint, whichever that is.
BEST = 'best.pth'


@HOOKS.register_module()
class CheckpointHook(mmengine.hooks.CheckpointHook):
    """MMEngine's CheckpointHook, but an interruption never costs a checkpoint: old ones are removed when the new one is
    there, ``last_checkpoint`` is replaced and not overwritten, and nothing outside the folder of checkpoints is removed,
    whatever a resumed file says of those before it.

    Our runners take it wherever a config says ``CheckpointHook``, and write each file atomically. Between two
    checkpoints the disk holds one more than ``max_keep_ckpts``. The best checkpoint is ``best.pth``, too: a second name of the
    same file (hard link), which takes no room; where a file system has none, its only name. ``save_best='auto'`` is what the
    task is judged by (``main_metric``).
    """

    best_ckpt_path: Any
    file_backend: Any
    keep_ckpt_ids: 'deque[int]'
    filename_tmpl: str

    def before_train(self, runner: Runner) -> None:
        """As MMEngine's. What a process that was killed left incomplete is removed."""
        info = runner.message_hub.runtime_info
        if not all(isinstance(step, int) for step in info.get('keep_ckpt_ids', ())):
            info.pop('keep_ckpt_ids')
        super().before_train(runner)
        if not isinstance(self.file_backend, LocalBackend):
            return
        # Which one is the best so far is read from the checkpoint that is resumed, and that may be a stranger's.
        if not self._is_inside(getattr(self, 'best_ckpt_path', None)):
            self.best_ckpt_path = None
        for key, path in getattr(self, 'best_ckpt_path_dict', {}).items():
            self.best_ckpt_path_dict[key] = path if self._is_inside(path) else None
        self._name_best()  # of a folder that an earlier version wrote
        if is_main_process() and Path(self.out_dir).is_dir():
            remove_partial_files(self.out_dir, Path(self.filename_tmpl).suffix)
            for folder in filter(is_abandoned, Path(runner.work_dir).glob(f'{_FOLDER}*')):
                shutil.rmtree(folder, ignore_errors=True)

    def _is_inside(self, path: Any) -> bool:
        return isinstance(path, str) and Path(path).absolute().parent.resolve() == Path(self.out_dir).absolute().resolve()

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        folder = _scratch_folder(runner.work_dir) if is_main_process() else nullcontext(runner.work_dir)
        with self._removing_later() as removed, folder as work_dir:
            super()._save_checkpoint_with_step(_InFolder(runner, work_dir), step, meta)
        return_free_memory()  # what was saved stood in it a second time
        if is_main_process():
            write_last_checkpoint(runner.work_dir, str(self.last_ckpt))
            for path in removed:
                if path != self.last_ckpt:
                    _remove(self.file_backend, path)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        if self.save_best and 'auto' in self.key_indicators:
            metric = main_metric(metrics)
            self._init_rule([self.rules[0] or ('less' if less_is_better(metric) else 'greater')], [metric])
        unknown = [key for key in self.key_indicators if key != 'auto' and key not in metrics] if self.save_best else []
        if unknown:
            raise InputError(
                f'save_best={unknown[0]!r} found in the checkpoint hook, but the validation gives '
                f'{", ".join(metrics)}; choose one of them'
            )
        with self._removing_later() as removed:
            before = self._best_paths()
            super()._save_best_checkpoint(runner, metrics)
        if self._best_paths() != before or removed:
            self._name_best(runner)
        for path in removed:
            if path not in self._best_paths() and Path(path).name != BEST:  # it was saved again under the same name
                _remove(self.file_backend, path)

    def _best_paths(self) -> list[Any]:
        """Of the best checkpoint by each metric of ``save_best``, in that order."""
        every = getattr(self, 'best_ckpt_path_dict', None) or {}
        return list(every.values()) or [getattr(self, 'best_ckpt_path', None)]

    def _name_best(self, runner: Runner | None = None) -> None:
        """Let ``best.pth`` be the best checkpoint by the first metric; atomically, so that there is always one."""
        path = next(iter(self._best_paths()), None)
        if not is_main_process() or not isinstance(self.file_backend, LocalBackend) or not path or not Path(path).is_file():
            return
        named, link = Path(path).with_name(BEST), Path(path).with_name(f'.{BEST}.{owner()}')
        if named == Path(path) or named.exists() and named.samefile(path):
            return
        try:
            link.unlink(missing_ok=True)
            os.link(path, link)
            os.replace(link, named)
        except OSError:  # no links on this file system: a copy of a large model would take the room of another
            os.replace(path, named)
            if getattr(self, 'best_ckpt_path', None) == path:
                self.best_ckpt_path = str(named)
                if runner is not None:
                    runner.message_hub.update_info('best_ckpt', str(named))

    @contextmanager
    def _removing_later(self) -> Iterator[list[str]]:
        """MMEngine's hook removes an old checkpoint and then saves the new one; within this, what it removes is listed."""
        backend = self.file_backend
        later = self.file_backend = _Later(backend)
        try:
            yield later.removed
        finally:
            self.file_backend = backend


def _scratch_folder(work_dir: str) -> 'TemporaryDirectory[str]':
    """Raises InputError where the disk is full or the folder cannot be written."""
    try:
        Path(work_dir).mkdir(parents=True, exist_ok=True)
        return TemporaryDirectory(prefix=f'{_FOLDER}{owner()}-', dir=work_dir)
    except OSError as error:
        raise InputError(f'cannot write into {work_dir} ({error.strerror}); {SAVING_FAILED}') from error


def _remove(backend: Any, path: str) -> None:
    if backend.isfile(path):
        backend.remove(path)
    elif backend.isdir(path):  # DeepSpeed's own are folders
        backend.rmtree(path)


class _Later:
    """Stands before a backend of files of MMEngine, and keeps what was to be removed."""

    def __init__(self, backend: Any):
        self._backend = backend
        self.removed: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self.removed.append(path)

    rmtree = remove


class _InFolder:
    """A runner with another work folder: MMEngine overwrites ``last_checkpoint`` there, ours replaces it."""

    def __init__(self, runner: Runner, work_dir: str):
        self._runner, self.work_dir = runner, work_dir

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)
