"""MMEngine's runners with our door for weights, for every tool that builds its runner from ``runner_type``."""

import os
import shutil
from typing import TYPE_CHECKING, Any, Optional, Sequence, Tuple, Union

import mmengine.runner
import torch
from mmengine._strategy import BaseStrategy
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torch import nn

from .checkpoints.door import backbones_of, into_model, unwrapped
from .checkpoints.files import read_checkpoint
from .checkpoints.windows import settle_windows, tested_windows
from .errors import InputError
from .hooks.averages import let_averages_follow
from .models.layers.sync_batch_norm import synchronised
from .optim.zero_redundancy import gather_states, shard_states
from .registry import RUNNERS

if TYPE_CHECKING:
    from mmengine.runner import Runner as _Base  # what it stands before
else:
    _Base = object


class _Door(_Base):
    """What both runners do with weights: code in checkpoint files is not run, ``load_from`` takes any layout, weights that
    are tested or resumed must fit the model entirely, and a config that grows windows is tested with the windows that its
    weights last ran with."""

    _testing = False

    def train(self) -> nn.Module:
        """As MMEngine's. What is loaded is fine-tuned, or resumed exactly."""
        self._testing = False
        return super().train()

    def val(self) -> dict:
        """As MMEngine's. What is loaded must fit the model entirely."""
        self._testing = True
        return super().val()

    def test(self) -> dict:
        """As MMEngine's. What is loaded must fit the model entirely."""
        self._testing = True
        return super().test()

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> Any:
        """As MMEngine's."""
        self._resume = True  # a call from outside is as strict as the option
        return super().resume(filename, *args, **kwargs)

    def load_or_resume(self) -> None:
        """As MMEngine's."""
        for backbone in backbones_of(self.model).values():
            if hasattr(backbone, 'gradient_scale'):
                # A function, which copies of the model (averages) do not copy in depth.
                backbone.gradient_scale = lambda: self._gradient_scale()
        super().load_or_resume()

    def _gradient_scale(self) -> float:
        """What a loss is multiplied with before its backward pass."""
        scale = float(self.optim_wrapper.scale_loss(torch.ones(())))
        scaler = getattr(self.optim_wrapper, 'loss_scaler', None)
        return scale * (scaler.get_scale() if hasattr(scaler, 'get_scale') else 1.0)

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """As MMEngine's."""
        if fn_name == 'before_save_checkpoint':
            kwargs['checkpoint']['meta']['batch'] = self._batch()
        super().call_hook(fn_name, **kwargs)

    def _batch(self) -> dict:
        """Of how many images an update of the weights is made, and by whom."""
        loader = self.cfg.get('train_dataloader') or {}
        return dict(processes=self.world_size, images=loader.get('batch_size', 1),
                    accumulated=(self.cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1))

    def _compare_batches(self, filename: str, before: dict) -> None:
        """Warn where a training goes on with another number of images in an update, or of updates in an epoch."""
        now = self._batch()
        if not isinstance(before, dict) or set(before) != set(now) or before == now:
            return
        told = ['{processes} processes x {images} images x {accumulated} batches'.format(**batch) for batch in (before, now)]
        line = f'{filename} was trained with {told[0]} for an update, here it goes on with {told[1]}'
        if len({batch['processes'] * batch['images'] * batch['accumulated'] for batch in (before, now)}) > 1:
            self.logger.warning(f'{line}: learning rates and schedules are those of another batch; consider another '
                                'batch_size, or --accumulate')
        elif before['accumulated'] != now['accumulated']:
            self.logger.warning(f'{line}: iterations count batches, so schedules are at another place; keep --accumulate as '
                                'it was')
        else:
            self.logger.info(f'{line}: the same batch')

    def _enter(self, checkpoint: dict, filename: str, strict: bool) -> None:
        """Put what a file held into the form of the model, which stays as it is. Raises InputError."""
        if self._resume and isinstance(checkpoint.get('meta'), dict):
            self._compare_batches(filename, checkpoint['meta'].get('batch'))
        model = unwrapped(self.model)
        exact = self._testing or self._resume or strict
        entries = into_model(model, checkpoint, filename, exact, self.logger.info)
        # In a training that is resumed, the hook that grows windows sets them.
        if self._testing or self._resume and tested_windows(self.cfg) == 'config':
            for line in settle_windows(model, entries, self.cfg):
                self.logger.info(f'{filename}: {line}')

    def _maybe_compile(self, target: str) -> None:
        """``compile=dict(target='blocks')`` in a config compiles the backbone's blocks, one at a time; other targets as
        MMEngine does."""
        if compile_blocks(self.model, self.cfg.get('compile')):
            self.logger.info('The blocks of the backbone are compiled when they first run, once for each size.')
        else:
            self._compile_otherwise(target)


def compile_blocks(model: nn.Module, options: Optional[dict]) -> bool:
    """Compile the blocks of its backbones, one at a time, as ``options`` (a config's ``compile``) say; False if they are not
    for blocks. Names of parameters stay. Raises InputError where a CPU has no compiler."""
    if not isinstance(options, dict) or options.get('target') != 'blocks':
        return False
    if get_device() == 'cpu' and not any(map(shutil.which, (os.environ.get('CXX', 'g++'), 'clang++'))):
        raise InputError('compile found on a machine without a C++ compiler, which PyTorch needs for that on a CPU; install '
                         'g++, or leave compile out')
    for backbone in backbones_of(model).values():
        for block in backbone.transformer_blocks():
            block.compile(**{key: value for key, value in options.items() if key != 'target'})
    return True


@RUNNERS.register_module()
class Runner(_Door, mmengine.runner.Runner):
    """MMEngine's runner (``runner_type='mmvitscale.Runner'``) with our door for weights.

    BatchNorm is synchronised on CPUs, too, and ``shard_optimizer=True`` in a config shares the optimizer's states out over
    the processes (ZeRO stage 1).
    """

    def _compile_otherwise(self, target: str) -> None:
        super(_Door, self)._maybe_compile(target)

    def wrap_model(self, model_wrapper_cfg: Optional[dict], model: nn.Module) -> nn.Module:
        """As MMEngine's."""
        sync_bn = self.cfg.get('sync_bn')
        if not (self.distributed and sync_bn and get_device() == 'cpu'):
            return super().wrap_model(model_wrapper_cfg, model)
        self.cfg.sync_bn = None  # what MMEngine would put in is for GPUs
        try:
            return super().wrap_model(model_wrapper_cfg, synchronised(model))
        finally:
            self.cfg.sync_bn = sync_bn

    def build_optim_wrapper(self, optim_wrapper: Union[dict, OptimWrapper]) -> OptimWrapper:
        """As MMEngine's."""
        if isinstance(optim_wrapper, dict) and self.distributed and 'optimizer' in optim_wrapper and (
                self.cfg.get('shard_optimizer') or 'ZeroRedundancy' in str(optim_wrapper['optimizer'].get('type'))):
            optim_wrapper = shard_states(optim_wrapper)
        return super().build_optim_wrapper(optim_wrapper)

    def save_checkpoint(self, *args: Any, save_optimizer: bool = True, **kwargs: Any) -> None:
        """As MMEngine's; averages of weights hold the model's windows."""
        let_averages_follow(self)
        if save_optimizer:
            gather_states(self.optim_wrapper)
        super().save_checkpoint(*args, save_optimizer=save_optimizer, **kwargs)

    def load_checkpoint(self, filename: str, map_location: Any = 'cpu', strict: bool = False,
                        revise_keys: Sequence[Tuple[str, str]] = ((r'^module.', ''), )) -> dict:
        """As MMEngine's. Files are read into the main memory whatever ``map_location`` says: weights, moments and averages
        go from there to where the model is.

        Raises:
            InputError: that names the file, for what does not fit.
        """
        checkpoint = read_checkpoint(filename)
        self._enter(checkpoint, filename, strict)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        _load_checkpoint_to_model(unwrapped(self.model), checkpoint, strict, revise_keys=list(revise_keys))
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint


@RUNNERS.register_module()
class FlexibleRunner(_Door, mmengine.runner.FlexibleRunner):
    """MMEngine's FlexibleRunner, which trains with a ``strategy``, with our door for weights.

    Unlike MMEngine's it knows ``sync_bn``, ``compile`` and hooks that load what they saved.
    """

    def build_strategy(self, strategy: dict, **kwargs: Any) -> BaseStrategy:
        """As MMEngine's."""
        strategy.setdefault('sync_bn', self.cfg.get('sync_bn'))
        built = super().build_strategy(strategy, **kwargs)
        built.enter = self._enter_model_of(built)
        return built

    def _enter_model_of(self, strategy):

        def enter(checkpoint, filename, strict):
            self.model = strategy.model
            self._enter(checkpoint, filename, strict)

        return enter

    def load_or_resume(self) -> None:
        """As MMEngine's, but hooks prepare themselves first: averages take part in loading."""
        self.call_hook('before_run')
        self._has_run_before = True
        super().load_or_resume()
        self._maybe_compile('train_step')

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """As MMEngine's."""
        if fn_name == 'before_save_checkpoint':
            kwargs['checkpoint']['meta'].update(self._saved_meta)
        if fn_name != 'before_run' or not getattr(self, '_has_run_before', False):
            super().call_hook(fn_name, **kwargs)

    def save_checkpoint(self, *args: Any, meta: Optional[dict] = None, **kwargs: Any) -> None:
        """As MMEngine's, in all processes, but the epoch and iteration in ``meta`` count, where it counts one too many after
        a validation. Averages of weights hold the model's windows."""
        let_averages_follow(self)
        self._saved_meta = dict(meta or {})
        super().save_checkpoint(*args, meta=dict(self._saved_meta), **kwargs)  # MMEngine's writes into it

    def _compile_otherwise(self, target: str) -> None:
        if self.cfg.get('compile'):
            raise InputError(f"compile={self.cfg.compile} found with a strategy, which can compile blocks: "
                             "compile=dict(target='blocks')")

    def _gradient_scale(self):
        if hasattr(self.strategy, 'gradient_scale'):
            return self.strategy.gradient_scale()
        return super()._gradient_scale()
