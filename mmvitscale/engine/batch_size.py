"""The largest training batch that fits into a GPU, found by training steps that leave no trace."""

import copy
import gc
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.dist import all_reduce, init_dist, is_distributed
from mmengine.hooks import EMAHook
from mmengine.registry import RUNNERS

from mmvitscale.config.view import ConfigView
from mmvitscale.errors import InputError
from mmvitscale.registry import type_name
from mmvitscale.utils.choices import AUTO

_MOST = 64
# Of a GPU's memory: what an unlucky batch of large images takes, and the buffers of several processes, come on top.
_SHARE = 0.9


def is_wanted(cfg: Config) -> bool:
    """Whether a config leaves the batch to be found."""
    return ConfigView(cfg).batch_size == AUTO  # type: ignore[comparison-overlap]


def find_batch_size(cfg: Config, prepare: Callable[[Config, str], None]) -> tuple[int, list[int]]:
    """The largest of 64, 32, 16, ... images, and no more than there are, with which forward pass, backward pass and the
    optimizer's update fit into 90% of the memory of this process's GPU; and those that did not.

    A model, an optimizer, averages of weights (EMA) and a data set are built for it beside the training's own and thrown
    away: weights, data order and random states of the training, which is built afterwards, are what they would have been.
    Several processes try each on its own, in no group, and so cannot wait for each other; ``agree`` follows.

    Args:
        cfg: of the training; it is not changed.
        prepare: fits a config to the hardware (config/runtime.py), for a launcher.

    Raises:
        InputError: without a GPU, for a strategy that shards a model, or if not even one image fits.
    """
    if get_device() == 'cpu':
        raise InputError(
            '--batch-size auto found, which fits a batch into the memory of a GPU, but there is none; give the number of '
            'images, e.g. --batch-size 4'
        )
    if ConfigView(cfg).strategy in ('FSDPStrategy', 'DeepSpeedStrategy'):
        raise InputError(
            f'--batch-size auto found with {ConfigView(cfg).strategy}, which no process can try on its own; give the number of '
            'images: tools/analysis/memory_plan.py says what fits'
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get('LOCAL_RANK', os.environ.get('SLURM_LOCALID', 0))))
    with _random_states_kept(), tempfile.TemporaryDirectory() as folder:
        found = _search(*_built(cfg, prepare, folder))
    _return_memory()
    return found


def agree(cfg: Config, images: int) -> int:
    """The least that any process found, after ``fit_to_hardware``."""
    if cfg.get('launcher', 'none') == 'none':
        return images
    if not is_distributed():  # as MMEngine's runner does it later
        init_dist(cfg.launcher, **(cfg.get('env_cfg') or {}).get('dist_cfg', {}))
    least = torch.tensor(images, device='cpu' if torch.distributed.get_backend() == 'gloo' else get_device())
    all_reduce(least, 'min')
    return int(least)


def _search(runner: Any, dataset: Any, collate: Callable[[list], Any]) -> tuple[int, list[int]]:
    images, refused, samples = min(_MOST, len(dataset)), [], []
    while True:
        samples = (samples + [dataset[i] for i in range(len(samples), images)])[:images]
        try:
            for _ in range(_steps(runner)):
                train_step(runner, collate(copy.deepcopy(samples)))
            return images, refused
        except torch.OutOfMemoryError as error:
            refused.append(images)
            if images == 1:
                raise InputError(
                    'not even one image fits into the memory of this GPU; take smaller crops, --amp, or with_cp=True of the '
                    'backbone: tools/analysis/memory_plan.py says what fits'
                ) from error
        runner.optim_wrapper.zero_grad()
        _return_memory()  # the error has kept the activations until here
        images //= 2


def _steps(runner: Any) -> int:
    """An update of the weights, and a batch beside the optimizer's states and the gradients of those before it."""
    return getattr(runner.optim_wrapper, '_accumulative_counts', 1) + 1


def train_step(runner: Any, batch: Any) -> None:
    """Forward and backward pass, and the update of the weights where one is due."""
    runner.model.train()
    runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)


def _built(cfg: Config, prepare: Callable[[Config, str], None], folder: str) -> tuple[Any, Any, Callable[[list], Any]]:
    """A runner of its own with an optimizer, its data set, and what makes a batch."""
    own = copy.deepcopy(cfg)
    own.train_dataloader.batch_size = 1
    prepare(own, 'none')
    own.train_dataloader.update(num_workers=0, persistent_workers=False)
    own.train_dataloader.pop('prefetch_factor', None)
    own.work_dir, own.experiment_name, own.log_level = folder, 'batch_size', 'ERROR'
    own.resume, own.load_from = False, None
    own.visualizer = ConfigDict(type='mmengine.Visualizer', vis_backends=[], name='batch_size')
    for part in ('val', 'test'):
        own[f'{part}_dataloader'] = own[f'{part}_cfg'] = own[f'{part}_evaluator'] = None
    own.custom_hooks = [hook for hook in own.get('custom_hooks') or [] if type_name(hook) == 'EMAHook']
    hooks = own.get('default_hooks') or {}
    own.default_hooks = ConfigDict({name: hook for name, hook in hooks.items() if hook and type_name(hook) == 'EMAHook'})
    runner: Any = RUNNERS.build(own)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.optim_wrapper.initialize_count_status(runner.model, 0, -1)
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            hook.before_run(runner)
    loader = runner.build_dataloader(own.train_dataloader)
    for handler in list(runner.logger.handlers):  # its file goes with the folder
        handler.close()
        runner.logger.removeHandler(handler)
    return runner, loader.dataset, loader.collate_fn


@contextmanager
def _random_states_kept() -> Iterator[None]:
    states: Sequence[Any] = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(_SHARE)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state_all(on_gpu)
            torch.cuda.set_per_process_memory_fraction(1.0)


def _return_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
