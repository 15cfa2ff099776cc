"""What this machine can do, and a config made to run on it."""

import importlib.util
import os

import torch
from mmengine.config import Config
from mmengine.device import get_device

from .config import dataloaders
from .errors import InputError


def is_first_process() -> bool:
    """Whether this process speaks for all: known before they are connected, from what torchrun or Slurm sets."""
    return int(os.environ.get('RANK', os.environ.get('SLURM_PROCID', 0))) == 0


def adapt_to_machine(cfg: Config, launcher: str = 'none') -> None:
    """Make a config written for several GPUs run on what is there: gloo and plain BatchNorm without a GPU, and no
    more loading processes than processors. Weights enter through our runner unless the config names another. Raises
    InputError for a launcher that needs GPUs where there are none."""
    cfg.setdefault('runner_type', 'mmvitscale.Runner')
    for loader in dataloaders(cfg, ('train', 'val', 'test')):
        loader.num_workers = min(loader.get('num_workers', 0), os.cpu_count() or 1)
    cfg.launcher = launcher
    if get_device() != 'cpu':
        return
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


def check_operators(cfg: Config) -> None:
    """Raise InputError if the config's task needs mmcv's compiled operators and they are not there."""
    needs = cfg.get('default_scope') == 'mmdet' or 'mmdet' in str(cfg.get('custom_imports', ''))
    if needs and importlib.util.find_spec('mmcv._ext') is None:
        raise InputError(f'{cfg.filename} needs the compiled operators of mmcv (NMS, RoIAlign), but mmcv is installed '
                         'without them; get them with: python tools/install_mmcv_ops.py')


def use_mixed_precision(cfg: Config) -> None:
    """float16 with loss scaling on a GPU, bfloat16 on a CPU."""
    if get_device() == 'cpu':
        cfg.optim_wrapper.type = 'mmvitscale.CPUAmpOptimWrapper'
    else:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
