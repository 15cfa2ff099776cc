"""What a config says, in one typed view: how scope, task, precision, strategy, hooks and loaders stand in its dicts is known
here alone. The view is of the config as it is now; whoever changes the config changes what it shows."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mmengine.config import Config, ConfigDict

from mmvitscale.registry import type_name

Task = Literal['segmentation', 'detection', 'classification', 'masked modelling', 'other']
Precision = Literal['float32', 'float16', 'bfloat16']

_TASKS: dict[str, Task] = {'mmseg': 'segmentation', 'mmdet': 'detection', 'mmpretrain': 'classification'}


@dataclass(frozen=True)
class ConfigView:
    """A config, typed.

    Args:
        cfg: of any task.
    """

    cfg: Config

    @property
    def scope(self) -> str:
        """The scope that types without one are looked up in. Configs in pure Python have none, but a model's class."""
        kind = (self.cfg.get('model') or {}).get('type')
        package = getattr(kind, '__module__', '').split('.')[0] if not isinstance(kind, str) else ''
        return self.cfg.get('default_scope') or (package if package in _TASKS else 'mmengine')

    @property
    def task(self) -> Task:
        """By the scope; masked image modelling by its ``predict_pipeline``: it has no test, and reconstructs images."""
        return 'masked modelling' if 'predict_pipeline' in self.cfg else _TASKS.get(self.scope, 'other')

    @property
    def model(self) -> ConfigDict:
        """The model, with the data preprocessor that stands beside it in the configs of mmpretrain, as MMEngine's runner
        builds it. A copy."""
        model = copy.deepcopy(self.cfg.model)
        if self.cfg.get('data_preprocessor'):
            model.setdefault('data_preprocessor', copy.deepcopy(self.cfg.data_preprocessor))
        return model

    @property
    def needs_compiled_operators(self) -> bool:
        """Whether the model has mmcv's NMS or RoIAlign: mmdetection's have."""
        return self.scope == 'mmdet' or 'mmdet' in str(self.cfg.get('custom_imports', ''))

    @property
    def optim_wrapper(self) -> str:
        """Type of the optimizer wrapper, without its scope; '' where there is none."""
        return type_name(self.cfg.get('optim_wrapper') or {})

    @property
    def strategy(self) -> str:
        """Type of the strategy of distributed training, without its scope; '' where there is none."""
        return type_name(self.cfg.get('strategy') or {})

    @property
    def precision(self) -> Precision:
        """Of training: by the optimizer wrapper, or by what the strategy enables."""
        strategy = self.cfg.get('strategy') or {}
        if self.optim_wrapper.endswith('BF16OptimWrapper') or (strategy.get('bf16') or {}).get('enabled'):
            return 'bfloat16'
        if self.optim_wrapper.endswith('AmpOptimWrapper') or (strategy.get('fp16') or {}).get('enabled'):
            return 'bfloat16' if 'bfloat16' in str((self.cfg.get('optim_wrapper') or {}).get('dtype')) else 'float16'
        return 'float32'

    @property
    def accumulated_batches(self) -> int:
        """Batches for an update of the weights (gradient accumulation)."""
        return (self.cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)

    @property
    def batch_size(self) -> int:
        """Images in a training batch of one process."""
        return (self.cfg.get('train_dataloader') or {}).get('batch_size', 1)

    @property
    def base_batch_size(self) -> float | None:
        """Images in a batch of all processes that the learning rate is for; None where the config does not contain it."""
        return (self.cfg.get('auto_scale_lr') or {}).get('base_batch_size')

    @property
    def counts_iterations(self) -> bool:
        """Whether the length of training is in iterations, not in epochs."""
        loop = self.cfg.get('train_cfg') or {}
        return loop.get('by_epoch') is False or 'IterBased' in type_name(loop)

    def hooks(self, name: str) -> list[ConfigDict]:
        """Those, default and custom, whose type ends in this name."""
        every = [*(self.cfg.get('default_hooks') or {}).values(), *(self.cfg.get('custom_hooks') or [])]
        return [hook for hook in every if hook and type_name(hook).endswith(name)]

    def schedulers(self) -> list[ConfigDict]:
        """Of the learning rate and other options of optimizers."""
        found = self.cfg.get('param_scheduler') or []
        if isinstance(found, dict) and 'type' not in found:  # of several optimizers, by name
            found = [item for own in found.values() for item in (own if isinstance(own, (list, tuple)) else [own])]
        return list(found) if isinstance(found, (list, tuple)) else [found]

    def loaders(self, *splits: str) -> Iterator[ConfigDict]:
        """The dataloaders that the config has for these splits (train, val, test)."""
        found = (self.cfg.get(f'{split}_dataloader') for split in splits)
        return (loader for loader in found if loader is not None)

    def datasets(self, *splits: str) -> list[ConfigDict]:
        """The data sets of these splits, inside their wrappers."""
        return [one for loader in self.loaders(*splits) for one in plain_datasets(loader.dataset)]

    def model_values(self, key: str) -> Iterator[Any]:
        """Every value of this key in the model."""
        return values_of(self.cfg.get('model') or {}, key)


def as_list(value: Any) -> list[Any]:
    """What a config has one of, several or none -> a list."""
    return list(value) if isinstance(value, (list, tuple)) else [value] if value else []


def plain_datasets(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """The data sets inside wrappers such as ConcatDataset and RepeatDataset."""
    inner: Sequence[ConfigDict] = dataset.get('datasets') or ([dataset.dataset] if 'dataset' in dataset else [])
    if not inner:
        yield dataset
    for item in inner:
        yield from plain_datasets(item)


def values_of(item: Any, key: str) -> Iterator[Any]:
    """Every value of this key in nested dicts and lists."""
    if isinstance(item, dict):
        if key in item:
            yield item[key]
        item = list(item.values())
    for inner in item if isinstance(item, (list, tuple)) else ():
        yield from values_of(inner, key)
