"""MMEngine's runners with our checkpoint loading, for every tool that builds its runner from ``runner_type``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mmengine.runner
import torch
from mmengine._strategy import BaseStrategy
from mmengine.device import get_device
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.evaluator import Evaluator
from mmengine.fileio import get_file_backend
from mmengine.fileio.backends import LocalBackend
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torch import nn
from torch.utils.data import DataLoader

from mmvitscale.checkpoints.io import read_checkpoint
from mmvitscale.checkpoints.loading import adapt_checkpoint, backbones_of, unwrapped
from mmvitscale.checkpoints.metadata import classes_in
from mmvitscale.checkpoints.names import is_checkpoint
from mmvitscale.checkpoints.resume import check_resumable, latest_complete_checkpoint
from mmvitscale.checkpoints.window_policy import apply_checkpoint_windows, test_windows_of
from mmvitscale.config.view import ConfigView
from mmvitscale.datasets.coco_evaluation import complete_ground_truths, evaluated_files, without_further_files
from mmvitscale.datasets.delivered import build_dataset
from mmvitscale.datasets.pipeline_errors import name_pipelines
from mmvitscale.engine.compiled_blocks import compile_training_steps, wants_compiled_blocks, why_not_compiling
from mmvitscale.engine.hooks.ema_metadata import sync_ema_metadata
from mmvitscale.engine.optim.zero_redundancy import gather_states, shard_states
from mmvitscale.engine.resumed_schedule import (
    KEY,
    Schedule,
    choose_schedule,
    describe_end,
    describe_schedule,
    without_functions,
)
from mmvitscale.errors import InputError, comes_from_here, some_of
from mmvitscale.models.layers.sync_batch_norm import with_sync_batch_norm
from mmvitscale.registry import RUNNERS, type_name
from mmvitscale.utils.atomic_write import SAVING_FAILED, atomic_write
from mmvitscale.utils.choices import RESUME_SCHEDULES
from mmvitscale.utils.cpu import check_compiler

if TYPE_CHECKING:
    from mmengine.runner import Runner as _Base  # what it stands before
else:
    _Base = object


# Of every training with our runners, beside MMEngine's, by the names that ``default_hooks`` knows them by.
_DEFAULT_HOOKS = dict(
    embedded_config=dict(type='mmvitscale.EmbeddedConfigHook'),
    exact_resume=dict(type='mmvitscale.ExactResumeHook'),
    finite_loss=dict(type='mmvitscale.FiniteLossHook'),
    training_signal=dict(type='mmvitscale.TrainingSignalHook'),
)


class CheckpointLoadingMixin(_Base):
    """What both runners do with weights: code in checkpoint files is not run, ``load_from`` takes any layout, weights that
    are tested or resumed must fit the model entirely, and a config that grows windows is tested with the windows that its
    weights last ran with."""

    _testing = False
    _evaluated = 'val'  # whose evaluator is built
    _load_from: str | None  # MMEngine's
    _with_optimizer = True  # of what is resumed
    _described: Schedule = {}  # the config's

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
        self._with_optimizer = kwargs.get('resume_optimizer', args[0] if args else True)
        try:
            return super().resume(filename, *args, **kwargs)
        except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, InputError) or comes_from_here(error):
                raise
            raise InputError(
                f'checkpoint {filename} cannot be resumed from ({type(error).__name__}: {error}); give one that '
                'this config has written, or fine-tune from its weights: --cfg-options load_from=FILE'
            ) from error

    def register_hook(self, hook: Hook | dict, *args: Any, **kwargs: Any) -> None:
        """As MMEngine's, but ``CheckpointHook`` is ours, whose checkpoints outlive interruptions."""
        if not isinstance(hook, (Hook, dict)):
            raise InputError(
                f'a hook {hook!r} found in the config, but hooks are dicts with a type, custom_hooks a list of them'
            )
        if isinstance(hook, dict) and hook.get('type') in (
            'CheckpointHook',
            'mmengine.CheckpointHook',
            mmengine.hooks.CheckpointHook,
        ):
            hook = {**hook, 'type': 'mmvitscale.CheckpointHook'}
        super().register_hook(hook, *args, **kwargs)

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        """As MMEngine's, and those of ``_DEFAULT_HOOKS``; ``default_hooks=dict(<name>=None)`` in a config leaves one out."""
        hooks = dict(hooks or {})
        for name, default in _DEFAULT_HOOKS.items():
            hook = hooks.setdefault(name, dict(default))
            if hook is None:
                hooks.pop(name)
            elif isinstance(hook, dict):  # options alone will do
                hooks[name] = {**default, **hook}
        super().register_default_hooks(hooks)

    def build_dataloader(
        self,
        dataloader: DataLoader | dict,
        seed: int | None = None,  # type: ignore[override]
        diff_rank_seed: bool = False,
    ) -> DataLoader:
        """As MMEngine's. Data pipelines name the image that they cannot take. Raises InputError for a data set that is
        empty."""
        if isinstance(dataloader, dict) and isinstance(dataloader.get('dataset'), dict):
            dataset = build_dataset(dataloader['dataset'])
            ignored = [value for value in ConfigView(self.cfg).model_values('ignore_index') if isinstance(value, int)]
            name_pipelines(dataset, ignored)
            dataloader = {**dataloader, 'dataset': _Built(dataset)}
        return mmengine.runner.Runner.build_dataloader(dataloader, seed, diff_rank_seed)

    def build_evaluator(self, evaluator: Any) -> Evaluator:
        """As MMEngine's. COCO's metrics score all annotations of all files of their data sets."""
        built = super().build_evaluator(without_further_files(evaluator))
        complete_ground_truths(built, evaluator, evaluated_files(self.cfg, self._evaluated))
        return built

    def build_val_loop(self, loop: Any) -> Any:
        """As MMEngine's."""
        self._evaluated = 'val'
        return super().build_val_loop(loop)

    def build_test_loop(self, loop: Any) -> Any:
        """As MMEngine's."""
        self._evaluated = 'test'
        return super().build_test_loop(loop)

    def load_or_resume(self) -> None:
        """As MMEngine's. ``resume`` without a file goes on from the newest checkpoint that is whole."""
        if self._resume is True and self._load_from is None and not self._has_loaded:
            self._load_from = self._latest_complete_checkpoint()
            self._resume = self._load_from is not None
        for backbone in backbones_of(self.model).values():
            if hasattr(backbone, 'gradient_scale'):
                backbone.gradient_scale = self._gradient_scale  # which copies and files of the model are without
        if not self._testing and not self._has_loaded:
            self._described = describe_schedule(*self._schedule())
        super().load_or_resume()
        if self._resume and not self._testing:
            line = describe_end(*self._schedule(), self.iter, getattr(self.train_loop, 'max_iters', None))
            if line:
                self.logger.warning(line)

    def _schedule(self) -> tuple[Any, Any]:
        """The optimizer's wrapper, and the schedulers."""
        built: Any = getattr(self, 'strategy', self)
        return getattr(built, 'optim_wrapper', None), getattr(built, 'param_schedulers', None)

    def _latest_complete_checkpoint(self) -> str | None:
        """What the first process finds, for all. Raises InputError if there is nothing but broken ones."""
        templates = [hook.filename_tmpl for hook in self.hooks if isinstance(hook, mmengine.hooks.CheckpointHook)]
        found: list = [None]
        if is_main_process():
            try:
                path = latest_complete_checkpoint(self.work_dir, self.logger.warning, templates)
                found = [str(path) if path else None]
            except InputError as error:
                found = [error]
        broadcast_object_list(found)
        if isinstance(found[0], InputError):
            raise found[0]
        self.logger.info(
            f'Resuming from {found[0]}.'
            if found[0]
            else f'There is no checkpoint in {self.work_dir} to resume from: training begins at the beginning.'
        )
        return found[0]

    def _gradient_scale(self) -> float:
        """What a loss is multiplied with before its backward pass."""
        scale = float(self.optim_wrapper.scale_loss(torch.ones(())))
        scaler = getattr(self.optim_wrapper, 'loss_scaler', None)
        return scale * (scaler.get_scale() if scaler is not None and hasattr(scaler, 'get_scale') else 1.0)

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """As MMEngine's."""
        if fn_name == 'before_save_checkpoint':
            kwargs['checkpoint']['meta']['batch'] = self._batch()
            kwargs['checkpoint'][KEY] = self._described
            if 'param_schedulers' in kwargs['checkpoint']:
                kwargs['checkpoint']['param_schedulers'] = without_functions(kwargs['checkpoint']['param_schedulers'])
        super().call_hook(fn_name, **kwargs)

    def dump_config(self) -> None:
        """As MMEngine's, but a config that was read from a checkpoint does not get that file's name."""
        if is_checkpoint(self.cfg.filename or ''):
            self.cfg.dump(Path(self.work_dir, f'{Path(self.cfg.filename).stem}.py'))
        else:
            super().dump_config()

    def _batch(self) -> dict:
        """Of how many images an update of the weights is made, and by whom."""
        loader = self.cfg.get('train_dataloader') or {}
        return dict(
            processes=self.world_size,
            images=loader.get('batch_size', 1),
            accumulated=(self.cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1),
        )

    def _compare_batches(self, filename: str, before: dict) -> None:
        """Warn where a training goes on with another number of images in an update, or of updates in an epoch."""
        now = self._batch()
        if not isinstance(before, dict) or set(before) != set(now) or before == now:
            return
        described = [
            '{processes} processes x {images} images x {accumulated} batches'.format(**batch) for batch in (before, now)
        ]
        line = f'{filename} was trained with {described[0]} for an update, here it is resumed with {described[1]}'
        if len({batch['processes'] * batch['images'] * batch['accumulated'] for batch in (before, now)}) > 1:
            self.logger.warning(
                f'{line}: learning rates and schedules are those of another batch; consider another batch_size, or '
                '--accumulate-grad'
            )
        elif before['accumulated'] != now['accumulated']:
            self.logger.warning(
                f'{line}: iterations count batches, so schedules are at another place; keep --accumulate-grad as it was'
            )
        else:
            self.logger.info(f'{line}: the same batch')

    def _compare_schedules(self, filename: str, checkpoint: dict) -> None:
        """Learning rates as ``resume_schedule`` in the config says, where the config's schedule is another than the
        checkpoint's."""
        if not self._with_optimizer:
            return
        choice = self.cfg.get('resume_schedule') or 'config'
        if choice not in RESUME_SCHEDULES:
            raise InputError(f'resume_schedule={choice!r} found, but it is config or checkpoint')
        counts_epochs = not hasattr(self.train_loop, 'dataloader_iterator')
        batches = len(self.train_dataloader) if counts_epochs else None
        line = choose_schedule(*self._schedule(), checkpoint, choice, batches)
        self._described = checkpoint.get(KEY) or {}
        if line:
            self.logger.warning(f'{filename}: {line}')

    def _compare_classes(self, filename: str, checkpoint: dict) -> None:
        """Raise InputError where the data have the classes that a model was trained for in another order."""
        loops = (self._test_loop, self._val_loop) if self._testing else (self._train_loop,)
        data = [loop.dataloader.dataset for loop in loops if hasattr(loop, 'dataloader')]
        before = classes_in(checkpoint)
        now = list((getattr(data[0], 'metainfo', None) or {}).get('classes') or ()) if data else []
        if now != before and set(now) == set(before):
            raise InputError(
                f'{filename} was trained with the classes {some_of(before)} in this order, but the data set has '
                f'{some_of(now)}, so that each label would have the name of another; write the classes, and the categories of '
                'annotation files, in the order of the training'
            )

    def _enter(self, checkpoint: dict, filename: str, strict: bool) -> None:
        """Put what a file held into the form of the model, which stays as it is. Raises InputError."""
        if self._resume:
            check_resumable(checkpoint, filename, self._with_optimizer)
            self._compare_batches(filename, checkpoint['meta'].get('batch'))
            self._compare_schedules(filename, checkpoint)
        if self._testing or self._resume:
            self._compare_classes(filename, checkpoint)
        model = unwrapped(self.model)
        exact = self._testing or self._resume or strict
        entries = adapt_checkpoint(model, checkpoint, filename, exact, self.logger.info)
        # In a training that is resumed, the hook that grows windows sets them.
        if self._testing or self._resume and test_windows_of(self.cfg) == 'config':
            for line in apply_checkpoint_windows(model, entries, self.cfg):
                self.logger.info(f'{filename}: {line}')

    def _maybe_compile(self, target: str) -> None:
        """``compile=dict(target='blocks')`` in a config compiles the backbone's blocks, one at a time, and
        ``compile=dict(target='auto')`` does so in trainings where it can pay; other targets as MMEngine does. Raises InputError
        where a CPU has no compiler."""
        options = self.cfg.get('compile')
        if isinstance(options, dict) and options.get('target') == 'auto':
            if target == 'train_step' and not self._testing:
                self._compile_by_default({key: value for key, value in options.items() if key != 'target'})
            return
        backend = options.get('backend', 'inductor') if isinstance(options, dict) else 'inductor'
        if options and backend == 'inductor' and get_device() == 'cpu':
            check_compiler()
        if compile_blocks(self.model, options):
            self.logger.info('The blocks of the backbone are compiled when they first run, once for each size.')
        else:
            self._compile_otherwise(target)

    def _compile_by_default(self, options: dict) -> None:
        """A line of the log says what was decided, and why."""
        end = getattr(self.train_loop, 'max_iters', None)
        wanted, reason = wants_compiled_blocks(self.cfg, None if end is None else end - self.iter)
        failed = why_not_compiling(get_device()) if wanted else None
        if not wanted or failed:
            self.logger.info(f'The blocks of the backbone are not compiled: {failed or reason}.')
            return
        compile_training_steps(self.model, self.logger.warning, **options)
        self.logger.info(
            f'The blocks of the backbone are compiled when they are first trained, which takes minutes: {reason}; '
            'compile=False leaves it out.'
        )


class _Built:
    """A data set among the settings of its loader, which MMEngine copies in depth."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __deepcopy__(self, memo: dict) -> Any:
        return self.dataset


def compile_blocks(model: nn.Module, options: dict | None) -> bool:
    """Compile the blocks of its backbones, one at a time, as ``options`` (a config's ``compile``) say; False if they are not
    for blocks. Names of parameters stay."""
    if not isinstance(options, dict) or options.get('target') != 'blocks':
        return False
    for backbone in backbones_of(model).values():
        for block in backbone.transformer_blocks():
            block.compile(**{key: value for key, value in options.items() if key != 'target'})
    return True


@RUNNERS.register_module()
class Runner(CheckpointLoadingMixin, mmengine.runner.Runner):
    """MMEngine's runner (``runner_type='mmvitscale.Runner'``) with our checkpoint loading.

    BatchNorm is synchronised on CPUs, too, and ``shard_optimizer=True`` in a config shares the optimizer's states out over
    the processes (ZeRO stage 1).
    """

    def _compile_otherwise(self, target: str) -> None:
        super(CheckpointLoadingMixin, self)._maybe_compile(target)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """As MMEngine's."""
        sync_bn = self.cfg.get('sync_bn')
        if not (self.distributed and sync_bn and get_device() == 'cpu'):
            return super().wrap_model(model_wrapper_cfg, model)
        self.cfg.sync_bn = None  # what MMEngine would put in is for GPUs
        try:
            return super().wrap_model(model_wrapper_cfg, with_sync_batch_norm(model))
        finally:
            self.cfg.sync_bn = sync_bn

    def build_optim_wrapper(self, optim_wrapper: dict | OptimWrapper) -> OptimWrapper:
        """As MMEngine's."""
        if (
            isinstance(optim_wrapper, dict)
            and self.distributed
            and 'optimizer' in optim_wrapper
            and (self.cfg.get('shard_optimizer') or 'ZeroRedundancy' in type_name(optim_wrapper['optimizer']))
        ):
            optim_wrapper = shard_states(optim_wrapper)
        return super().build_optim_wrapper(optim_wrapper)

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, save_optimizer: bool = True, **kwargs: Any) -> None:
        """As MMEngine's, but the file is complete or not there (atomic writes), and averages of weights hold the model's
        windows. Raises InputError if it cannot be written."""
        sync_ema_metadata(self)
        if save_optimizer:
            gather_states(self.optim_wrapper)
        if not is_main_process():
            return
        if not isinstance(get_file_backend(out_dir, backend_args=kwargs.get('backend_args')), LocalBackend):
            super().save_checkpoint(out_dir, filename, *args, save_optimizer=save_optimizer, **kwargs)
            return
        with atomic_write(Path(out_dir, filename), durable=True, advice=SAVING_FAILED) as part:
            super().save_checkpoint(str(part.parent), part.name, *args, save_optimizer=save_optimizer, **kwargs)

    def load_checkpoint(
        self,
        filename: str,
        map_location: Any = 'cpu',
        strict: bool = False,
        revise_keys: Sequence[tuple[str, str]] = ((r'^module.', ''),),
    ) -> dict:
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
class FlexibleRunner(CheckpointLoadingMixin, mmengine.runner.FlexibleRunner):
    """MMEngine's FlexibleRunner, which trains with a ``strategy``, with our checkpoint loading.

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
        """As MMEngine's, but hooks match_weights themselves first: averages take part in loading."""
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

    def save_checkpoint(self, *args: Any, meta: dict | None = None, **kwargs: Any) -> None:
        """As MMEngine's, in all processes, but the epoch and iteration in ``meta`` count, where it counts one too many after
        a validation. Averages of weights hold the model's windows."""
        sync_ema_metadata(self)
        self._saved_meta = dict(meta or {})
        super().save_checkpoint(*args, meta=dict(self._saved_meta), **kwargs)  # MMEngine's writes into it

    def _compile_otherwise(self, target: str) -> None:
        if self.cfg.get('compile'):
            raise InputError(
                f"compile={self.cfg.compile} found with a strategy, which can compile blocks: compile=dict(target='blocks')"
            )

    def _gradient_scale(self):
        if hasattr(self.strategy, 'gradient_scale'):
            return self.strategy.gradient_scale()
        return super()._gradient_scale()
