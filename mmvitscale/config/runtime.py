"""A config fitted to the hardware: runner, processes, precision, gradient accumulation."""

import importlib.util
import os
import re
import subprocess
from datetime import timedelta
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device

from mmvitscale.config.validation import check_numbers
from mmvitscale.config.view import ConfigView
from mmvitscale.errors import InputError, some_of
from mmvitscale.registry import type_name
from mmvitscale.utils import cpu
from mmvitscale.utils.atomic_write import check_writable
from mmvitscale.utils.torchvision_shim import make_torchvision_importable

# Seconds that a process waits for the others before it gives up: longer than one of them evaluates COCO alone.
_TIMEOUT = 1800

# Steps of mmdetection's data pipelines -> the packages that they need: name, and what to give pip.
_PACKAGES = {
    'InstaBoost': ('instaboostfast', 'instaboostfast'),
    'LoadPanopticAnnotations': ('panopticapi', 'git+https://github.com/cocodataset/panopticapi.git'),
}


# Schedulers of MMEngine, without the end of their names (LR, Momentum, ParamScheduler), and their options that count steps,
# beside begin and end.
SCHEDULERS: dict[str, tuple[str, ...]] = {
    'Constant': (),
    'CosineAnnealing': ('T_max',),
    'CosineRestart': ('periods',),
    'Exponential': (),
    'Linear': (),
    'MultiStep': ('milestones',),
    'OneCycle': ('total_steps',),
    'Poly': (),
    'ReduceOnPlateau': (),  # counts validations
    'Step': ('step_size',),
}


# Options of Adam and AdamW that say how they compute.
_IMPLEMENTATIONS = {'fused', 'foreach', 'differentiable', 'capturable'}


def fuse_optimizer(cfg: Config) -> None:
    """For a CPU: let PyTorch's Adam or AdamW update a parameter by one kernel, unless the config says how. By default it takes
    eight operations for each, which take five times as long.

    Not where processes share the states out (ZeRO, DeepSpeed, FSDP), whose checkpoints would bring the option to GPUs: there
    ``fused`` wants step counts on the GPU, and these strategies restore them on the CPU. GPUs update several parameters at a
    time as it is.
    """
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer')
    if not isinstance(optimizer, dict) or type_name(optimizer) not in ('Adam', 'AdamW') or _IMPLEMENTATIONS & set(optimizer):
        return
    if not cfg.get('strategy') and not cfg.get('shard_optimizer'):
        optimizer['fused'] = True


def fit_to_hardware(cfg: Config, launcher: str = 'none', force_amp: bool = False) -> None:
    """Make a config written for several GPUs run on what is there: gloo and bfloat16 in place of NCCL and float16 without a
    GPU, and the optimizer's update by one kernel (``fuse_optimizer``); no more loading processes than CPU cores. Weights are
    loaded by our runners unless the config names another.

    Args:
        cfg: changed in place.
        launcher: none, pytorch or slurm.
        force_amp: a config's mixed precision stays where the CPU emulates it, too.

    Raises:
        InputError: for more processes than GPUs, or a ``strategy`` that cannot work.
    """
    check_numbers(cfg)
    _check_launcher(launcher)
    cfg.setdefault('runner_type', 'mmvitscale.Runner')
    for loader in ConfigView(cfg).loaders('train', 'val', 'test'):
        loader.num_workers = min(loader.get('num_workers', 0), os.cpu_count() or 1)
        if loader.num_workers == 0:  # PyTorch refuses options of loading processes where there are none
            loader.persistent_workers = False
            loader.pop('prefetch_factor', None)
    cfg.launcher = launcher
    on_cpu = get_device() == 'cpu'
    if on_cpu and ConfigView(cfg).optim_wrapper == 'AmpOptimWrapper':
        use_mixed_precision(cfg, force_amp)
    if on_cpu:
        fuse_optimizer(cfg)
    _choose_runner(cfg, force_amp)
    if cfg.get('sync_bn') == 'mmcv':
        raise InputError(
            "sync_bn='mmcv' found, whose layers neither Re-attention nor a CPU knows; use sync_bn='torch', "
            'which computes the same'
        )
    if launcher == 'none':
        return
    dist_cfg = cfg.setdefault('env_cfg', ConfigDict()).setdefault('dist_cfg', ConfigDict(backend='nccl'))
    dist_cfg.setdefault('timeout', _TIMEOUT)
    if not on_cpu:
        here = int(os.environ.get('LOCAL_WORLD_SIZE', os.environ.get('SLURM_NTASKS_PER_NODE', 1)))
        if get_device() == 'cuda' and here > torch.cuda.device_count():
            raise InputError(
                f'{here} processes found on a machine with {torch.cuda.device_count()} GPUs, but each needs '
                'one of its own; start as many, and make up for the smaller batch with --accumulate-grad'
            )
        return
    if launcher == 'slurm':
        _tell_torch_of_slurm(dist_cfg.get('port'))
    # MMEngine would choose a CUDA device for each process; a process group that is there already it leaves alone.
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo', timeout=timedelta(seconds=dist_cfg.timeout))
    cfg.model_wrapper_cfg = ConfigDict(
        {
            'type': 'MMDistributedDataParallel',
            'broadcast_buffers': False,
            'find_unused_parameters': cfg.get('find_unused_parameters', False),
            **(cfg.get('model_wrapper_cfg') or {}),
            'device_ids': None,
        }
    )


def _check_launcher(launcher: str) -> None:
    """Raise InputError unless the launcher that is named has started this process."""
    needed = {'pytorch': ('RANK', 'WORLD_SIZE', 'MASTER_ADDR'), 'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST')}
    missing = [name for name in needed.get(launcher, ()) if name not in os.environ]
    if missing:
        how = 'tools/dist_train.sh CONFIG N or torchrun' if launcher == 'pytorch' else 'srun, as tools/slurm_train.sh does'
        raise InputError(
            f'--launcher {launcher} found, but the environment has no {some_of(missing)}; start with {how}, or '
            'leave --launcher out'
        )


def _tell_torch_of_slurm(port: int | None) -> None:
    """Say what Slurm says in the names that PyTorch reads, as MMEngine does where there are GPUs."""
    nodes = os.environ['SLURM_NODELIST']
    try:
        first = subprocess.run(['scontrol', 'show', 'hostname', nodes], capture_output=True, text=True).stdout.split()[0]
    except (OSError, IndexError):
        first = nodes  # a single one needs no reading
    os.environ.setdefault('MASTER_ADDR', first)
    os.environ.setdefault('MASTER_PORT', str(port or 29500))
    for name, of_slurm in (('RANK', 'PROCID'), ('LOCAL_RANK', 'LOCALID'), ('WORLD_SIZE', 'NTASKS')):
        os.environ[name] = os.environ[f'SLURM_{of_slurm}']


def _choose_runner(cfg: Config, force_amp: bool = False) -> None:
    """MMEngine's flexible runner, with our checkpoint loading, where a ``strategy`` requires it. Raises InputError for a
    strategy that is not known, or cannot do what the config wants."""
    if not cfg.get('strategy'):
        return
    kind = ConfigView(cfg).strategy
    if cfg.launcher == 'none' or kind in ('DDPStrategy', 'SingleDeviceStrategy'):
        cfg.pop('strategy')  # the plain runner does that
        return
    if kind not in ('FSDPStrategy', 'DeepSpeedStrategy'):
        raise InputError(
            f'strategy {kind} found, but mmvitscale knows FSDPStrategy and DeepSpeedStrategy; take one of configs/_base_/scale'
        )
    if kind == 'DeepSpeedStrategy' and importlib.util.find_spec('deepspeed') is None:
        raise InputError(f'strategy {kind} found, which needs the package deepspeed; get it with: pip install deepspeed')
    if kind == 'FSDPStrategy':
        _check_fsdp(cfg, force_amp)
    _check_deepspeed(cfg)
    cfg.strategy.type = f'mmvitscale.{kind}'
    cfg.runner_type = 'mmvitscale.FlexibleRunner'


def _check_deepspeed(cfg: Config) -> None:
    """Raise InputError for mixed precision where the whole model would be in it and cannot."""
    view = ConfigView(cfg)
    mixed = view.needs_compiled_operators and view.precision != 'float32'
    if 'DeepSpeed' in view.strategy and get_device() == 'cpu' and mixed:
        raise InputError(
            'mixed precision found with DeepSpeed on a CPU, where the compiled operators of mmcv know no '
            'bfloat16; leave --amp out, or use the strategy zero1'
        )


def _check_fsdp(cfg: Config, force_amp: bool) -> None:
    """Raise InputError for what parameters that are sharded cannot do."""
    view = ConfigView(cfg)
    if view.hooks('EMAHook'):
        raise InputError(
            'EMAHook found with FSDPStrategy, but it copies a model, and no process has a whole one; '
            'use the strategy zero1 or deepspeed_zero1, or leave the hook (--ema) out'
        )
    if any(view.model_values('similarity_loss_weight')) or any(view.model_values('similarity_weight')):
        raise InputError(
            'similarity_loss_weight found with FSDPStrategy, but it compares the maps of blocks that are not '
            'together at a time; use the strategy zero1 or deepspeed_zero1'
        )
    if view.optim_wrapper == 'AmpOptimWrapper':
        if view.precision != 'bfloat16':
            raise InputError(
                'AmpOptimWrapper with float16 found with FSDPStrategy, whose processes see infinities in '
                'their own shards only; use bfloat16: --amp, or optim_wrapper.dtype=bfloat16'
            )
        use_mixed_precision(cfg, force_amp)


def check_packages(cfg: Config) -> None:
    """Raise InputError if the config needs mmpretrain, mmcv's compiled operators, or a package of a step of its data
    pipeline, and they are not there. Call it before the config's scope is imported."""
    view = ConfigView(cfg)
    if view.scope == 'mmpretrain':
        missing = [] if importlib.util.find_spec('mmpretrain') else ['mmpretrain']
        missing += [] if make_torchvision_importable() else ['torchvision']
        if missing:
            raise InputError(
                f"{cfg.filename} needs {' and '.join(missing)}; get them with: pip install -c constraints.txt -e '.[pretrain]'"
            )
    for step, (package, source) in _PACKAGES.items():
        if step in str(cfg.get('train_dataloader')) and importlib.util.find_spec(package) is None:
            raise InputError(
                f'{cfg.filename} has {step} in its data pipeline, which needs the package {package}; get it '
                f'with: pip install {source}'
            )
    if view.needs_compiled_operators and importlib.util.find_spec('mmcv._ext') is None:
        raise InputError(
            f'{cfg.filename} needs the compiled operators of mmcv (NMS, RoIAlign), but mmcv is installed '
            'without them; get them with: python tools/install_mmcv_ops.py'
        )


# Of MMEngine's AmpOptimWrapper and our BF16OptimWrapper, which an OptimWrapper in float32 does not take.
MIXED_PRECISION_OPTIONS = ('loss_scale', 'dtype', 'use_fsdp', 'cache', 'backbone_only')


def use_mixed_precision(cfg: Config, force: bool = False) -> None:
    """What ``--amp`` does: float16 with loss scaling on a GPU, bfloat16 on a CPU and where a strategy scales no loss. On a CPU
    that emulates bfloat16 training stays in float32, unless it is forced (``--force-amp``)."""
    if get_device() != 'cpu' and not cfg.get('strategy'):
        for option in ('cache', 'backbone_only'):  # of BF16OptimWrapper
            cfg.optim_wrapper.pop(option, None)
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
        return
    for option in MIXED_PRECISION_OPTIONS:
        cfg.optim_wrapper.pop(option, None)
    if _leaves_out_bfloat16(force):
        cfg.optim_wrapper.type = 'OptimWrapper'
        return
    cfg.optim_wrapper.type = 'mmvitscale.BF16OptimWrapper'
    if cfg.get('strategy'):
        _check_deepspeed(cfg)
    cfg.optim_wrapper.cache = 'FSDP' not in ConfigView(cfg).strategy
    cfg.optim_wrapper.backbone_only = get_device() == 'cpu' and ConfigView(cfg).needs_compiled_operators


def _leaves_out_bfloat16(force: bool) -> bool:
    return get_device() == 'cpu' and cpu.emulates_bfloat16() and not force


def describe_precision(cfg: Config, amp: bool, force: bool) -> str | None:
    """One line where the mixed precision that a config or ``amp`` requests is left out; before ``fit_to_hardware``."""
    asked = amp or ConfigView(cfg).optim_wrapper == 'AmpOptimWrapper'
    if not asked or not _leaves_out_bfloat16(force):
        return None
    return (
        f'training stays in float32: this CPU ({cpu.name()}) has no bfloat16 of its own, and emulating it '
        'takes longer; --force-amp has it nevertheless'
    )


def accumulate_gradients(cfg: Config, steps: int) -> None:
    """One update for every ``steps`` batches: the same batch in all as ``steps`` times as many GPUs, and the same number of
    updates, at the same learning rates. Whatever the config counts in iterations is counted in batches then.

    Raises:
        InputError: for less than one, or a config that accumulates already.
    """
    view = ConfigView(cfg)
    if steps < 1 or (steps > 1 and view.accumulated_batches > 1):
        raise InputError(
            f'--accumulate-grad {steps} found with accumulative_counts {view.accumulated_batches} in the config, but it is 1 '
            'or more, and one of them is enough'
        )
    cfg.optim_wrapper.accumulative_counts = steps

    def stretch(item: ConfigDict, *keys: str) -> None:
        for key in keys:
            if item.get(key) is not None and item[key] != float('inf'):
                value = item[key]
                item[key] = [n * steps for n in value] if isinstance(value, (list, tuple)) else value * steps

    for scheduler in view.schedulers():
        if scheduler.get('by_epoch', True):
            continue  # an epoch has as many batches as before
        name = type_name(scheduler)
        counted = SCHEDULERS.get(re.sub('(LR|Momentum|ParamScheduler)$', '', name))
        if counted is None:
            raise InputError(
                f'--accumulate-grad found with the scheduler {name}, which counts iterations in a way that is not known here; '
                f'use one of MMEngine ({", ".join(SCHEDULERS)}), or count its epochs: by_epoch=True'
            )
        stretch(scheduler, 'begin', 'end', *counted)
        if 'Exponential' in name:  # multiplied in every iteration
            scheduler.gamma **= 1 / steps
    loop = cfg.train_cfg
    if view.counts_iterations:
        stretch(loop, 'max_iters', 'val_interval', 'val_begin')
        if loop.get('dynamic_intervals'):
            loop.dynamic_intervals = [((start - 1) * steps + 1, interval * steps) for start, interval in loop.dynamic_intervals]
    for hook in view.hooks('CheckpointHook'):
        if hook.get('by_epoch') is False:
            stretch(hook, 'interval')
    for hook in view.hooks('ProgressiveWindowHook'):
        for phase in hook.schedule:
            stretch(phase, 'begin')
    for hook in view.hooks('EMAHook'):
        hook.interval = hook.get('interval', 1) * steps
        stretch(hook, 'begin_iter', 'gamma')  # the latter of annealing averages, in iterations
    if view.base_batch_size and cfg.auto_scale_lr.get('enable'):
        cfg.auto_scale_lr.base_batch_size /= steps  # MMEngine compares it with a single batch


def scale_learning_rate(cfg: Config) -> None:
    """Switch on MMEngine's linear scaling of the learning rate with the batch in all, after ``accumulate_gradients``. Raises
    InputError for a config that does not say which batch its learning rate is for."""
    view = ConfigView(cfg)
    if not view.base_batch_size:
        raise InputError(
            f'--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...), the batch that the learning rate '
            f'is for, which {cfg.filename} does not have; add it'
        )
    if not cfg.auto_scale_lr.get('enable'):
        cfg.auto_scale_lr.base_batch_size /= view.accumulated_batches  # MMEngine compares it with a single batch
    cfg.auto_scale_lr.enable = True


def describe_batch(cfg: Config, processes: int) -> str | None:
    """One line where the images of an update, of all processes together, are not as many as the recipe's learning rate is
    for."""
    view = ConfigView(cfg)
    base, own = view.base_batch_size, view.batch_size * processes * view.accumulated_batches
    if not base or own == base or cfg.auto_scale_lr.get('enable'):
        return None
    times = round(base / own)
    accumulated = f'--accumulate-grad {times}' if times > 1 and view.accumulated_batches == 1 else None
    ways = ' or '.join(filter(None, (accumulated, '--auto-scale-lr')))
    return f'the learning rate is for batches of {base:g} images, here they have {own}; consider {ways}'


def use_work_dir(cfg: Config, work_dir: str | None) -> None:
    """Where logs and checkpoints go: the option, else the config's ``work_dir``, else work_dirs/<config name>."""
    cfg.work_dir = work_dir or cfg.get('work_dir') or str(Path('work_dirs', Path(cfg.filename).stem))
    check_writable(cfg.work_dir)
