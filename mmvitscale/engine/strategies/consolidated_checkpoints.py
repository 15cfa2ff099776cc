"""Checkpoints of sharded trainings in the form that a single process writes and reads."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import mmengine
import torch
from mmengine._strategy import SingleDeviceStrategy
from mmengine.dist import is_main_process
from mmengine.utils import get_git_hash

from mmvitscale.checkpoints.io import read_checkpoint
from mmvitscale.utils.atomic_write import SAVING_FAILED, atomic_write

# What goes over with the content of a file before its weights are loaded: (content, file name, strict).
Enter = Callable[[dict, str, bool], None]


class ConsolidatedCheckpoints:
    """Mix-in for a strategy of MMEngine: all processes gather, the first one writes one file, and all of them read it.

    Subclasses give ``model_state_dict`` and ``optim_state_dict``, which every process calls, whole and in the main memory
    of the first one, and take such in ``load_model_state_dict`` and ``load_optim_state_dict``.

    ``adapt``, set by the runner, matches what a file held with the model.
    """

    enter: Enter
    # The strategy's behind this mix-in.
    load_model_state_dict: Callable[..., None]
    model_state_dict: Callable[[], dict]
    optim_state_dict: Callable[[], dict]
    scheduler_state_dict: Callable[[], Any]
    seed: int

    def load_checkpoint(
        self,
        filename: str,
        *,
        map_location: Any = 'cpu',
        strict: bool = False,
        revise_keys: Sequence[tuple[str, str]] = ((r'^module\.', ''),),
        callback: Callable | None = None,
    ) -> dict:
        """As MMEngine's. Files are read into the main memory, and code in them is not run."""
        checkpoint = read_checkpoint(filename)
        self.enter(checkpoint, filename, strict)
        if callback is not None:
            callback(checkpoint)
        self.load_model_state_dict(checkpoint.pop('state_dict'), strict=strict, revise_keys=list(revise_keys))
        return checkpoint

    # DeepSpeed's in MMEngine reads folders of its own only.
    resume = SingleDeviceStrategy.resume

    def save_checkpoint(
        self,
        filename: str,
        *,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        extra_ckpt: dict | None = None,
        callback: Callable | None = None,
    ) -> None:
        """As MMEngine's, in all processes."""
        content = {'state_dict': self.model_state_dict()}
        if save_optimizer and hasattr(self, 'optim_wrapper'):
            content['optimizer'] = self.optim_state_dict()
        if save_param_scheduler and hasattr(self, 'param_schedulers'):
            content['param_schedulers'] = self.scheduler_state_dict()
        if not is_main_process():
            return
        content.update(extra_ckpt or {})
        content['meta'] = {
            **content.get('meta', {}),
            'seed': self.seed,
            'time': time.strftime('%Y%m%d_%H%M%S', time.localtime()),
            'mmengine_version': mmengine.__version__ + get_git_hash(),
        }
        if callback is not None:
            callback(content)
        with atomic_write(filename, durable=True, advice=SAVING_FAILED) as part:
            torch.save(content, part)
