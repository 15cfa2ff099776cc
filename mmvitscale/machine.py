"""What this machine can do, and a config made to run on it."""

import importlib.util
import os
from typing import Optional

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device

from .config import dataloaders
from .errors import InputError
from .torchvision_shim import make_torchvision_importable

# Steps of mmdetection's data pipelines -> the packages that they need: name, and what to give pip.
_PACKAGES = {
    'InstaBoost': ('instaboostfast', 'instaboostfast'),
    'LoadPanopticAnnotations': ('panopticapi', 'git+https://github.com/cocodataset/panopticapi.git'),
}


def is_first_process() -> bool:
    """Whether this process speaks for all: known before they are connected, from what torchrun or Slurm sets."""
    return int(os.environ.get('RANK', os.environ.get('SLURM_PROCID', 0))) == 0


def adapt_to_machine(cfg: Config, launcher: str = 'none') -> None:
    """Make a config written for several GPUs run on what is there: gloo, plain BatchNorm and bfloat16 in place of float16
    without a GPU, and no more loading processes than processors. Weights enter through our runner unless the config names
    another. Raises InputError for a launcher that needs GPUs where there are none."""
    cfg.setdefault('runner_type', 'mmvitscale.Runner')
    for loader in dataloaders(cfg, ('train', 'val', 'test')):
        loader.num_workers = min(loader.get('num_workers', 0), os.cpu_count() or 1)
    cfg.launcher = launcher
    if get_device() != 'cpu':
        return
    if str((cfg.get('optim_wrapper') or {}).get('type', '')).split('.')[-1] == 'AmpOptimWrapper':
        use_mixed_precision(cfg)
    cfg.pop('sync_bn', None)  # PyTorch synchronises BatchNorm on GPUs only
    if launcher == 'none':
        return
    if launcher != 'pytorch':
        raise InputError(f'--launcher {launcher} needs GPUs, and none is there; use --launcher pytorch (dist_train.sh)')
    # MMEngine would choose a CUDA device for each process; a process group that is there already it leaves alone.
    torch.distributed.init_process_group('gloo')
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel',
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False))


def check_packages(cfg: Config) -> None:
    """Raise InputError if the config needs mmpretrain, mmcv's compiled operators, or a package of a step of its data
    pipeline, and they are not there. Call it before the config's scope is imported."""
    if cfg.get('default_scope') == 'mmpretrain':
        missing = [] if importlib.util.find_spec('mmpretrain') else ['mmpretrain']
        missing += [] if make_torchvision_importable() else ['torchvision']
        if missing:
            raise InputError(f'{cfg.filename} needs {" and ".join(missing)}; get them with: pip install -c constraints.txt '
                             "-e '.[pretrain]'")
    for step, (package, source) in _PACKAGES.items():
        if step in str(cfg.get('train_dataloader')) and importlib.util.find_spec(package) is None:
            raise InputError(f'{cfg.filename} has {step} in its data pipeline, which needs the package {package}; get it '
                             f'with: pip install {source}')
    if _needs_operators(cfg) and importlib.util.find_spec('mmcv._ext') is None:
        raise InputError(f'{cfg.filename} needs the compiled operators of mmcv (NMS, RoIAlign), but mmcv is installed '
                         'without them; get them with: python tools/install_mmcv_ops.py')


def _needs_operators(cfg: Config) -> bool:
    return cfg.get('default_scope') == 'mmdet' or 'mmdet' in str(cfg.get('custom_imports', ''))


def use_mixed_precision(cfg: Config) -> None:
    """float16 with loss scaling on a GPU, bfloat16 on a CPU."""
    if get_device() != 'cpu':
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
        return
    for option in ('loss_scale', 'dtype', 'use_fsdp'):  # of AmpOptimWrapper
        cfg.optim_wrapper.pop(option, None)
    cfg.optim_wrapper.type = 'mmvitscale.CPUAmpOptimWrapper'
    cfg.optim_wrapper.backbone_only = _needs_operators(cfg)


def accumulate_gradients(cfg: Config, steps: int) -> None:
    """One update for every ``steps`` batches: the same batch in all as ``steps`` times as many GPUs, and the same number of
    updates, at the same learning rates. Whatever the config counts in iterations is counted in batches then.

    Raises:
        InputError: for less than one, or a config that accumulates already.
    """
    if steps < 1 or steps > 1 and cfg.optim_wrapper.get('accumulative_counts', 1) > 1:
        raise InputError(f'--accumulate {steps} found with accumulative_counts '
                         f'{cfg.optim_wrapper.get("accumulative_counts", 1)} in the config, but it is 1 or more, and one of '
                         'them is enough')
    cfg.optim_wrapper.accumulative_counts = steps

    def stretch(item: ConfigDict, *keys: str) -> None:
        for key in keys:
            if item.get(key) is not None and item[key] != float('inf'):
                value = item[key]
                item[key] = [n * steps for n in value] if isinstance(value, (list, tuple)) else value * steps

    schedulers = cfg.get('param_scheduler') or []
    for scheduler in schedulers if isinstance(schedulers, (list, tuple)) else [schedulers]:
        if not scheduler.get('by_epoch', True):
            stretch(scheduler, 'begin', 'end', 'milestones', 'step_size', 'T_max', 'total_iters')
    loop = cfg.train_cfg
    if loop.get('by_epoch') is False or 'IterBased' in str(loop.get('type', '')):
        stretch(loop, 'max_iters', 'val_interval', 'val_begin')
        if loop.get('dynamic_intervals'):
            loop.dynamic_intervals = [
                ((start - 1) * steps + 1, interval * steps) for start, interval in loop.dynamic_intervals]
    for hook in [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or [])]:
        if str(hook.get('type', '')).endswith('CheckpointHook') and hook.get('by_epoch') is False:
            stretch(hook, 'interval')
        if str(hook.get('type', '')).endswith('ProgressiveWindowHook'):
            for phase in hook.schedule:
                stretch(phase, 'begin')
        if str(hook.get('type', '')).endswith('EMAHook'):
            hook.interval = hook.get('interval', 1) * steps
            stretch(hook, 'begin_iter')
    if (cfg.get('auto_scale_lr') or {}).get('base_batch_size'):
        cfg.auto_scale_lr.base_batch_size /= steps  # MMEngine compares it with a single batch


def scale_learning_rate(cfg: Config) -> None:
    """Switch on MMEngine's linear scaling of the learning rate with the batch in all. Raises InputError for a config that
    does not say which batch its learning rate is for."""
    if not (cfg.get('auto_scale_lr') or {}).get('base_batch_size'):
        raise InputError(f'--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...), the batch that the learning rate '
                         f'is for, which {cfg.filename} does not have; add it')
    cfg.auto_scale_lr.enable = True


def describe_batch(cfg: Config, processes: int) -> Optional[str]:
    """One line where the batch of all processes together is not the one that the recipe's learning rate is for."""
    scaling = cfg.get('auto_scale_lr') or {}
    base, own = scaling.get('base_batch_size'), cfg.train_dataloader.get('batch_size', 1) * processes
    if not base or own == base or scaling.get('enable'):
        return None
    accumulated = f'--accumulate {round(base / own)}' if own < base else None
    ways = ' or '.join(filter(None, (accumulated, '--auto-scale-lr')))
    return f'the learning rate is for batches of {base:g} images, here they have {own}; consider {ways}'
