"""Checkpoints of a training: the new one is whole before an old one goes."""

from collections import deque
from pathlib import Path
from typing import Any

import mmengine.hooks
from mmengine.dist import is_main_process
from mmengine.fileio.backends import LocalBackend
from mmengine.runner import Runner

from mmvitscale.checkpoints.resume import write_last_checkpoint
from mmvitscale.errors import InputError
from mmvitscale.registry import HOOKS
from mmvitscale.utils.atomic_write import remove_partial_files
from mmvitscale.utils.cpu import return_free_memory


@HOOKS.register_module()
class CheckpointHook(mmengine.hooks.CheckpointHook):
    """MMEngine's CheckpointHook, but an interruption never costs a checkpoint: old ones are removed when the new one is
    there, ``last_checkpoint`` is replaced and not overwritten, and nothing outside the folder of checkpoints is removed,
    whatever a resumed file says of those before it.

    Our runners take it wherever a config says ``CheckpointHook``, and write each file beside its place first. Between two
    checkpoints the disk holds one more than ``max_keep_ckpts``.
    """

    file_backend: Any
    keep_ckpt_ids: 'deque[int]'

    def before_train(self, runner: Runner) -> None:
        """As MMEngine's. What a process that was killed left half-written is removed."""
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
        if is_main_process() and Path(self.out_dir).is_dir():
            remove_partial_files(self.out_dir, '.pth')

    def _is_inside(self, path: Any) -> bool:
        return isinstance(path, str) and Path(path).absolute().parent.resolve() == Path(self.out_dir).absolute().resolve()

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        expired: list[int] = []
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            kept = [*self.keep_ckpt_ids, step]
            expired, kept = kept[: -self.max_keep_ckpts], kept[-self.max_keep_ckpts :]
            self.keep_ckpt_ids = deque(kept, self.max_keep_ckpts)
            runner.message_hub.update_info('keep_ckpt_ids', kept)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        return_free_memory()  # what was saved stood in it a second time
        if not is_main_process():
            return
        write_last_checkpoint(runner.work_dir, str(self.last_ckpt))
        for old in expired:
            _remove(self.file_backend, self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old)))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        unknown = [key for key in self.key_indicators if key != 'auto' and key not in metrics] if self.save_best else []
        if unknown:
            raise InputError(
                f'save_best={unknown[0]!r} found in the checkpoint hook, but the validation gives '
                f'{", ".join(metrics)}; choose one of them'
            )
        backend = self.file_backend
        # MMEngine's removes the best one so far and then saves the new one.
        later = self.file_backend = _Later(backend)
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = backend
        best = {getattr(self, 'best_ckpt_path', None), *getattr(self, 'best_ckpt_path_dict', {}).values()}
        for path in later.removed:
            if path not in best:  # it was saved again under the same name
                _remove(backend, path)


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
