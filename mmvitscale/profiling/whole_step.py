"""How long the whole step of a config takes, and each of its parts: data, preprocessing, backbone, neck, heads with their
losses, backward pass and optimizer, beside the step of other configs.

The configs' own pipelines, models and optimizers run, on images drawn for the purpose; weights are random, as training
initialises them, and no file of weights is read.
"""

import copy
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import FUNCTIONS, MODELS, DefaultScope, init_default_scope
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mmvitscale.config.runtime import MIXED_PRECISION_OPTIONS, check_packages, fuse_optimizer
from mmvitscale.config.validation import check_parts
from mmvitscale.config.view import ConfigView, plain_datasets, values_of
from mmvitscale.datasets.delivered import class_of
from mmvitscale.datasets.seeded_batches import seed_everything
from mmvitscale.errors import InputError
from mmvitscale.inference.predictor import pipeline_of
from mmvitscale.models.layers.autocast import backbone_in_bfloat16
from mmvitscale.profiling.benchmark import check_device, median_and_spread, memory_of_step
from mmvitscale.profiling.drawn_samples import draw_samples
from mmvitscale.profiling.whole_variants import VARIANTS
from mmvitscale.registry import type_name
from mmvitscale.utils.choices import EXPORTED_VARIANTS
from mmvitscale.utils.cpu import check_compiler
from mmvitscale.utils.error_translation import explain, message_of

DATA, PREPROCESSING, BACKBONE, OTHER = 'data', 'preprocessing', 'backbone', 'other'
BACKWARD_HEADS, BACKWARD_BACKBONE, OPTIMIZER = 'backward, heads and neck', 'backward, backbone', 'optimizer'
BACKWARD = 'backward'  # both, in a profile, whose marks cannot change in its midst
DTYPES = ('fp32', 'bf16')


@dataclass(frozen=True)
class WholeCase:
    """What a step is like. mode: training or inference, the latter of one image. dtype: fp32, or bf16 for autocast. batch:
    images of a training step. size: side of square images, None for the config's own sizes."""

    mode: str = 'training'
    dtype: str = 'fp32'
    batch: int = 2
    size: int | None = None
    device: str = 'cpu'

    def __str__(self) -> str:
        size = f'{self.size} px' if self.size else "the config's image size"
        batch = self.batch if self.mode == 'training' else 1
        return f'{self.mode}, {self.dtype}, batch {batch}, {size}'


class PartTimer:
    """Seconds of the parts of a step. Parts may be nested: time counts for the innermost, so that they are disjoint and
    their sum is the whole. On a GPU every boundary waits for the work before it.

    Args:
        device: 'cpu' or 'cuda'.
    """

    def __init__(self, device: str):
        self.device = device
        self.begin()

    def begin(self) -> None:
        """A step begins, in no part of it."""
        self.seconds: dict[str, float] = {}
        self._open = [OTHER]
        self._since = self._now()

    def end(self) -> dict[str, float]:
        """The step has ended -> seconds of its parts; what is in none is OTHER."""
        self._count()
        return self.seconds

    @contextmanager
    def part(self, name: str, mark: str | None = None) -> Iterator[None]:
        """Within it time counts for this part. mark: what it is called in a profile, if not so."""
        self._count()
        self._open.append(name)
        try:
            with torch.profiler.record_function(mark or name):
                yield
        finally:
            self._count()
            self._open.pop()

    def switch(self, before: str, after: str) -> None:
        """Where ``before`` is the innermost part, ``after`` follows it."""
        if self._open[-1] == before:
            self._count()
            self._open[-1] = after

    def _count(self) -> None:
        now = self._now()
        self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now

    def _now(self) -> float:
        if self.device == 'cuda':
            torch.cuda.synchronize()
        return time.perf_counter()


class WholeStep:
    """A config's step, to be called with its number: steps of one number draw the same images and random numbers.

    Args:
        cfg: of segmentation or detection; it is not changed.
        case: what the step is like.
        samples: of ``draw_samples``.
        variant: one of VARIANTS, what becomes of the model before its optimizer is built.

    Raises:
        InputError: for a config that cannot be measured, or not in this variant.
    """

    def __init__(self, cfg: Config, case: WholeCase, samples: Sequence[dict[str, Any]], variant: str = 'plain'):
        check_config(cfg)
        self.case, self.timer, self.scope = case, PartTimer(case.device), ConfigView(cfg).scope
        self.variant, self.shape = variant, tuple[int, ...]()
        cfg = copy.deepcopy(cfg)
        if case.size:
            use_image_size(cfg, case.size, case.mode)
        init_default_scope(self.scope)
        self._batch = partial(_Batches(cfg, case, samples), case.batch if case.mode == 'training' else 1)
        self.model = _build_model(cfg, case)
        with TemporaryDirectory() as folder:
            VARIANTS[variant](self.model, case.size, Path(folder))
        # mmcv's compiled operators know no bfloat16 on a CPU: the backbone alone is in it, as in our trainings there.
        self._lowers_backbone_only = case.device == 'cpu' and ConfigView(cfg).needs_compiled_operators
        self._watch_parts()
        if case.mode == 'training':
            if case.device == 'cpu':
                fuse_optimizer(cfg)  # as in our trainings there
            self.optim_wrapper = build_optim_wrapper(self.model, _optim_wrapper_of(cfg))
            self.optim_wrapper.initialize_count_status(self.model, 0, -1)

    @property
    def parameters(self) -> int:
        """Of the model."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def parts(self) -> list[str]:
        """Marks of the parts in a profile."""
        children = [name for name, _ in self.model.named_children() if name != 'data_preprocessor']
        if self.variant in EXPORTED_VARIANTS:
            children = [self.variant]
        return [DATA, PREPROCESSING, *children, BACKWARD, OPTIMIZER]

    def __call__(self, number: int = 0) -> dict[str, float]:
        """Seconds of the parts of a step; their sum is the whole."""
        seed_everything(number)
        with DefaultScope.overwrite_default_scope(self.scope):
            self.timer.begin()
            (self._train if self.case.mode == 'training' else self._predict)(number)
            return dict(self.timer.end())

    def _train(self, number: int) -> None:
        with self.timer.part(DATA):
            batch = self._batch(number)
        with self._autocast():
            losses = self._forward(batch, 'loss')
        loss, _ = self.model.parse_losses(losses)
        with self.timer.part(BACKWARD_HEADS, BACKWARD):
            self.optim_wrapper.backward(self.optim_wrapper.scale_loss(loss))
        with self.timer.part(OPTIMIZER):
            self.optim_wrapper.step()  # clips gradients, too
            self.optim_wrapper.zero_grad()

    @torch.no_grad()
    def _predict(self, number: int) -> None:
        with self.timer.part(DATA):
            batch = self._batch(number)
        with self._autocast():
            self._forward(batch, 'predict')

    def _forward(self, batch: Any, mode: str) -> Any:
        with self.timer.part(PREPROCESSING):
            data = self.model.data_preprocessor(batch, mode == 'loss')
        self.shape = tuple(data['inputs'].shape)
        return self.model(**data, mode=mode)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.case.dtype == 'bf16' and self._lowers_backbone_only:
            return backbone_in_bfloat16(self.model.backbone, self.case.device)
        return torch.autocast(self.case.device, torch.bfloat16, enabled=self.case.dtype == 'bf16')

    def _watch_parts(self) -> None:
        """Every child of the model is a part, whichever of its methods the model calls, or the file that takes their place."""
        for method in ('encode_decode', 'predict') if self.variant in EXPORTED_VARIANTS else ():
            if method in vars(self.model):
                setattr(self.model, method, partial(self._run, self.variant, vars(self.model)[method]))
        for name, child in self.model.named_children():
            if name == 'data_preprocessor':
                continue
            for module in child if isinstance(child, nn.ModuleList) else [child]:
                for method in ('forward', 'loss', 'predict', 'loss_and_predict'):
                    if hasattr(module, method):
                        run = getattr(module, method)
                        setattr(module, method, partial(self._run_backbone if name == BACKBONE else self._run, name, run))

    def _run(self, name: str, method: Callable, *args: Any, **kwargs: Any) -> Any:
        with self.timer.part(name):
            return method(*args, **kwargs)

    def _run_backbone(self, name: str, method: Callable, *args: Any, **kwargs: Any) -> Any:
        with self.timer.part(name):
            outputs = method(*args, **kwargs)
        # Autograd goes through operations in the order opposite to that in which they ran: when the gradient of an output is
        # there, all that ran behind the backbone is done.
        for output in tree_leaves(outputs):
            if isinstance(output, Tensor) and output.requires_grad:
                output.register_hook(lambda _: self.timer.switch(BACKWARD_HEADS, BACKWARD_BACKBONE))
        return outputs


def check_config(cfg: Config) -> None:
    """Raise InputError unless the config is one of segmentation or detection with all that a step needs."""
    check_parts(cfg, 'model', 'train_dataloader', 'optim_wrapper')
    if ConfigView(cfg).task not in ('segmentation', 'detection') or not cfg.model.get('backbone'):
        raise InputError(
            f'config {cfg.filename} is of {ConfigView(cfg).task}, but whole steps are measured of segmentors and detectors '
            'with a backbone, in the scopes mmseg and mmdet'
        )
    check_packages(cfg)


def classes_of(cfgs: Sequence[Config]) -> int:
    """How many classes all of them have."""
    numbers = [number for cfg in cfgs for number in ConfigView(cfg).model_values('num_classes') if isinstance(number, int)]
    return min(filter(lambda number: number > 0, numbers), default=1)


def check_case(case: WholeCase, variant: str = 'plain') -> None:
    """Raise InputError for a case that cannot be measured here, or not in this variant."""
    check_device(case.device)
    for option, value in {'--image-size': case.size, '--batch-size': case.batch}.items():
        if value is not None and value < 1:
            raise InputError(f'{option} {value} found, but it is at least 1')
    for option, found, known in (('--dtype', case.dtype, DTYPES), ('--variant', variant, VARIANTS)):
        if found not in known:
            raise InputError(f'{option} {found} found with --whole, which measures {", ".join(known)}')
    if variant in EXPORTED_VARIANTS and (case.mode, case.dtype, case.device) != ('inference', 'fp32', 'cpu'):
        raise InputError(
            f'--variant {variant} found with {case.mode} in {case.dtype} on {case.device}, but exported files are measured in '
            'inference with fp32 on a CPU'
        )
    if variant == 'compiled' and case.device == 'cpu':
        check_compiler()


def _build_model(cfg: Config, case: WholeCase) -> nn.Module:
    described = ConfigView(cfg).model
    _leave_out_weights(described)
    torch.manual_seed(0)
    model = MODELS.build(described)
    model.init_weights()
    return revert_sync_batchnorm(model).to(case.device).train(case.mode == 'training')


def _leave_out_weights(item: Any) -> None:
    """In place: nothing inside names a file of weights."""
    if isinstance(item, dict):
        for key, value in item.items():
            own = value if isinstance(value, (list, tuple)) else [value]
            loads = any(isinstance(one, dict) and type_name(one) == 'Pretrained' for one in own)
            if key == 'pretrained' or key == 'init_cfg' and loads:
                item[key] = None
    for inner in item.values() if isinstance(item, dict) else item if isinstance(item, (list, tuple)) else ():
        _leave_out_weights(inner)


def _optim_wrapper_of(cfg: Config) -> ConfigDict:
    """The config's, in the precision of its surroundings and with an update in every step."""
    described = copy.deepcopy(cfg.optim_wrapper)
    if type_name(described) in ('AmpOptimWrapper', 'BF16OptimWrapper'):
        described.type = 'OptimWrapper'
        for option in MIXED_PRECISION_OPTIONS:
            described.pop(option, None)
    described.pop('accumulative_counts', None)
    return described


class _Batches:
    """A config's batches of drawn samples: through its pipeline and its collate function."""

    def __init__(self, cfg: Config, case: WholeCase, samples: Sequence[dict[str, Any]]):
        self.filename, self.samples = cfg.filename, samples
        training = case.mode == 'training'
        steps = train_pipeline_of(cfg) if training else pipeline_of(cfg)
        self.pipeline = Compose(copy.deepcopy(list(steps)))
        loader = cfg.train_dataloader if training else cfg.test_dataloader
        self.collate = _collate_of(loader)
        # As the data set says it to its pipeline: by its config, or by the default of its class.
        dataset = next(plain_datasets(loader.dataset))
        kind = class_of(cfg, dataset)
        default = inspect.signature(kind).parameters.get('reduce_zero_label') if kind else None
        self.reduce_zero_label = dataset.get('reduce_zero_label', bool(default and default.default is True))

    def __call__(self, size: int, number: int) -> Any:
        """Batch ``number``, of ``size`` images. Where random cuts leave nothing of one, the next takes its place."""
        found: list[Any] = []
        for index in range(number * size, number * size + 20 * size):
            sample = copy.deepcopy(self.samples[index % len(self.samples)])
            try:
                result = self.pipeline({**sample, 'reduce_zero_label': self.reduce_zero_label})
            except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
                reason = explain(error) or message_of(error)
                raise InputError(
                    f'the data pipeline of {self.filename} cannot take the images that are drawn for it ({reason}); they have '
                    'what ADE20K and COCO have: label maps, or boxes and masks'
                ) from error
            found += [result] if result is not None else []
            if len(found) == size:
                return self.collate(found)
        raise InputError(f'the data pipeline of {self.filename} leaves nothing of the images that are drawn for it')


def train_pipeline_of(cfg: Config) -> Sequence[dict]:
    """The steps that an image goes through before the model is trained with it. Raises InputError for a config without, and
    for one that mixes images."""
    outer = cfg.train_dataloader.dataset
    if 'MultiImageMix' in str(outer):
        raise InputError(
            f'the train data set of {cfg.filename} mixes images (MultiImageMixDataset), which is not measured; take a config '
            'without'
        )
    pipelines = (dataset.get('pipeline') for dataset in (*plain_datasets(outer), outer))
    found = next(filter(None, pipelines), None)
    if found is None:
        raise InputError(f'the train data set of {cfg.filename} has no pipeline, so no batch can be made; add one')
    return found


def _collate_of(loader: ConfigDict) -> Callable[[list], Any]:
    described = dict(loader.get('collate_fn') or dict(type='pseudo_collate'))
    kind = described.pop('type')
    return partial(FUNCTIONS.get(kind) if isinstance(kind, str) else kind, **described)


# Steps of pipelines that set the size of images.
_CROPS = ('RandomCrop', 'CenterCrop', 'Pad')
_RESIZES = ('Resize', 'RandomResize', 'RandomChoiceResize', 'RandomResizedCrop', 'ResizeShortestEdge', 'FixScaleResize')


def use_image_size(cfg: Config, side: int, mode: str = 'training') -> None:
    """Change a config in place so that its images are of side x side pixels: in training of segmentation by its random crop, in
    place of which an image is resized where it has none, as in detection, whose sizes vary, and in inference."""
    if mode == 'inference':
        for dataset in plain_datasets(cfg.test_dataloader.dataset):
            dataset.pipeline = _resized(dataset.get('pipeline') or [], side)
        return
    for dataset in plain_datasets(cfg.train_dataloader.dataset):
        steps = dataset.get('pipeline') or []
        crops = [step for step in steps if type_name(step) == 'RandomCrop']
        if ConfigView(cfg).task == 'segmentation' and crops:
            for step in crops:
                step.crop_size = (side, side)
        else:
            dataset.pipeline = _resized(steps, side)
    preprocessor = cfg.model.get('data_preprocessor') or ConfigDict()
    if 'size' in preprocessor or ConfigView(cfg).task == 'segmentation':
        preprocessor.size, preprocessor.size_divisor = (side, side), None
    for augment in preprocessor.get('batch_augments') or []:
        if 'size' in augment:
            augment.size = (side, side)


def _resized(steps: Sequence[ConfigDict], side: int) -> list[ConfigDict]:
    """A pipeline with one step that resizes in place of all that do, crop or pad."""
    resize = ConfigDict(type='Resize', scale=(side, side), keep_ratio=False)
    sizing = [bool({name.split('.')[-1] for name in _types_in(step)} & {*_CROPS, *_RESIZES}) for step in steps]
    first = sizing.index(True) if True in sizing else len(steps) - 1  # behind all but what packs the results
    kept = [step for step, sizes in zip(steps, sizing) if not sizes]
    return [*kept[:first], resize, *kept[first:]]


def _types_in(step: ConfigDict) -> list[str]:
    return [kind if isinstance(kind, str) else kind.__name__ for kind in values_of(step, 'type')]


@dataclass(frozen=True)
class WholeResult:
    """One config in one case and variant. shape: of the last batch, NCHW. seconds and spread: median of the rounds and their
    middle half over it, of the step as 'step' and of its parts. memory: MB, see ``benchmark.memory_of_step``."""

    config: str
    case: WholeCase
    variant: str
    parameters: int
    shape: tuple[int, ...]
    seconds: dict[str, float]
    spread: dict[str, float]
    memory: dict[str, float] | None = None


STEP = 'step'
_IMAGES = 4  # that are drawn, at least


@contextmanager
def steps_of(cfgs: Sequence[Config], case: WholeCase, variants: Sequence[str] = ('plain',)) -> Iterator[list[WholeStep]]:
    """A step of each config in each variant, all with the same images, which are there within it.

    Raises:
        InputError: for configs that cannot be measured, or not beside each other.
    """
    for cfg in cfgs:
        check_config(cfg)
    tasks = [ConfigView(cfg).task for cfg in cfgs]
    for cfg, task in zip(cfgs, tasks):
        if task != tasks[0]:
            raise InputError(
                f'{cfgs[0].filename} is of {tasks[0]} and {cfg.filename} of {task}, but configs of one task are compared, on '
                'the same images'
            )
    with TemporaryDirectory() as folder:
        samples = draw_samples(Path(folder), max(_IMAGES, case.batch), tasks[0], classes_of(cfgs))
        yield [WholeStep(cfg, case, samples, variant) for cfg in cfgs for variant in variants]


def peak_memory(cfg: Config, case: WholeCase, variant: str = 'plain') -> dict[str, float]:
    """See ``benchmark.memory_of_step``: of the first step of a config, the optimizer's states included. Raises InputError."""
    with steps_of([cfg], case, [variant]) as (step,):
        return memory_of_step(step, case.device)


def measure(steps: Sequence[WholeStep], rounds: int) -> list[list[dict[str, float]]]:
    """Seconds of the parts of every step in every round; in a round each has its turn, timed interleaved, with the same
    images. A first one warms up."""
    for step in steps:
        step()
    measured: list[list[dict[str, float]]] = [[] for _ in steps]
    for number in range(1, rounds + 1):
        for step, found in zip(steps, measured):
            found.append(step(number))
    return measured


def summarise(
    config: str, step: WholeStep, measured: Sequence[dict[str, float]], memory: dict[str, float] | None = None
) -> WholeResult:
    """What was measured of a config -> its row."""
    parts = list(dict.fromkeys(part for found in measured for part in found if part != OTHER))
    columns = {STEP: [sum(found.values()) for found in measured]} if measured else {}
    columns.update({part: [found.get(part, 0.0) for found in measured] for part in (*parts, *([OTHER] if measured else []))})
    found = {part: median_and_spread(column) for part, column in columns.items()}
    return WholeResult(
        config,
        step.case,
        step.variant,
        step.parameters,
        step.shape,
        {part: median for part, (median, _) in found.items()},
        {part: spread for part, (_, spread) in found.items()},
        memory,
    )


def ratios(results: Sequence[WholeResult]) -> list[dict[str, float]]:
    """Of each result but the first: its seconds over those of the first, of the step and of the parts that both have."""
    first = results[0].seconds
    return [
        {part: seconds / first[part] for part, seconds in result.seconds.items() if first.get(part)} for result in results[1:]
    ]
