"""The hook that says at once that a training learns nothing."""

from collections import Counter
from collections.abc import Container
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mmvitscale.engine.optim.wrappers import wrappers_of
from mmvitscale.errors import InputError, some_of
from mmvitscale.registry import HOOKS


@HOOKS.register_module()
class TrainingSignalHook(Hook):
    """Warns once where the first iterations of a training give nothing to learn from: no object and no labelled pixel in any
    image, no positive sample (losses of boxes and masks of exactly zero), a loss or gradients of exactly zero.

    What is said names what the data pipeline has delivered (images, objects or labelled images by class) and the likely
    cause. The training goes on.

    Our runners have it by default (``default_hooks=dict(training_signal=None)`` leaves it out).

    Args:
        iterations: so many, from where a training starts or goes on, are looked at; of a shorter one all.
    """

    priority = 'LOW'

    def __init__(self, iterations: int = 20):
        if iterations < 1:
            raise InputError(f'iterations={iterations} found in training_signal, but it is at least 1')
        self.iterations = iterations
        self._left = 0
        self._handles: list[Any] = []

    def before_train(self, runner: Runner) -> None:
        """Starts to look."""
        counts = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        self._all = self._left = max(self.iterations, counts if isinstance(counts, int) else 1)
        self._images, self._labels = 0, Counter[Any]()
        self._zero_terms: dict[str, bool] = {}  # of boxes and masks, which only positive samples have
        self._knows_labels = self._zero_loss = True
        self._gradients: set[bool] = set()
        self._ignored = {255} | {
            module.ignore_index for module in runner.model.modules() if isinstance(getattr(module, 'ignore_index', None), int)
        }
        if hasattr(runner, 'strategy'):
            return  # whose gradients are in other places
        for own in wrappers_of(runner.optim_wrapper).values():
            if hasattr(own.optimizer, 'register_step_pre_hook'):
                self._handles.append(own.optimizer.register_step_pre_hook(self._look_at_gradients))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Counts what the data pipeline delivers."""
        if self._left <= 0:
            return
        samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else None
        inputs = data_batch.get('inputs') if isinstance(data_batch, dict) else None
        self._images += len(inputs) if isinstance(inputs, (list, tuple, Tensor)) else 0
        for sample in samples if isinstance(samples, (list, tuple)) else [None]:
            try:
                found = labels_of(sample, self._ignored)
            except (TypeError, ValueError, RuntimeError):  # names, say
                found = None
            if found is None:
                self._knows_labels = False
            else:
                self._labels.update(found)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Looks at the loss, and warns when all iterations are behind."""
        if self._left <= 0:
            return
        if self._zero_loss:
            loss = outputs.get('loss') if isinstance(outputs, dict) else None
            self._zero_loss = isinstance(loss, (Tensor, float, int)) and not bool(torch.as_tensor(loss).any())
        for name, term in (outputs if isinstance(outputs, dict) else {}).items():
            if 'loss' in name and ('bbox' in name or 'mask' in name) and self._zero_terms.get(name, True):
                self._zero_terms[name] = not bool(torch.as_tensor(term).any())
        self._left -= 1
        if self._left == 0:
            self._finish(runner)

    def after_train(self, runner: Runner) -> None:
        """Warns of a training that was shorter."""
        if 0 < self._left < self._all:
            self._left = 0
            self._finish(runner)

    def _look_at_gradients(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if True not in self._gradients:
            parameters = (parameter for group in optimizer.param_groups for parameter in group['params'])
            self._gradients.add(any(p.grad is not None and bool(p.grad.any()) for p in parameters))

    def _finish(self, runner: Runner) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        found = []
        nothing = self._knows_labels and not self._labels
        if nothing:
            found.append('no image with an object or a labelled pixel')
        elif self._knows_labels and self._zero_terms and all(self._zero_terms.values()):
            found.append(f'no positive sample ({some_of(list(self._zero_terms))} of exactly zero)')
        if self._zero_loss:
            found.append('a loss of exactly zero')
        if self._gradients == {False}:
            found.append('gradients of exactly zero')
        if not found:
            return
        if nothing:
            cause = (
                'names or ids in the annotations that are not those of the classes, an annotation file of other images, or '
                'crops and filters that leave nothing'
            )
        elif self._zero_loss:
            cause = 'a loss_weight of 0, labels that are all ignore_index, or a head for other classes'
        elif self._gradients != {False}:
            cause = (
                'objects that no anchor or proposal fits (boxes in another unit, or beyond the image), or far too small ones'
            )
        else:
            cause = 'every layer that the loss depends on is frozen, or a learning target that the model already has'
        runner.logger.warning(
            f'the first iterations gave {" and ".join(found)}: {self._images} images were delivered, with '
            f'{self._describe_labels(runner)}; likely causes: {cause}; tools/analysis/browse_dataset.py shows what is delivered'
        )

    def _describe_labels(self, runner: Runner) -> str:
        if not self._knows_labels:
            return 'labels of a kind that is not known here'
        if not self._labels:
            return 'no label'
        meta = getattr(runner.train_dataloader.dataset, 'metainfo', None) or {}
        classes = meta.get('classes') or ()
        named = [
            f'{count} of {classes[label] if isinstance(label, int) and 0 <= label < len(classes) else f"class {label}"}'
            for label, count in self._labels.most_common()
        ]
        return f'labels by class: {some_of(named)}'


def labels_of(sample: Any, ignored: Container[int] = (255,)) -> list[int] | None:
    """A data sample of mmdetection, mmsegmentation or mmpretrain -> the classes of its objects, one for each; of a semantic
    map those that are in it; of a classification its own. None where it holds no ground truth of a known kind."""
    instances, semantic = getattr(sample, 'gt_instances', None), getattr(sample, 'gt_sem_seg', None)
    found = None
    if instances is not None and 'labels' in instances:
        found = torch.as_tensor(instances.labels).flatten().tolist()
    if semantic is not None and not found:  # things, or stuff alone
        data = semantic.data if isinstance(getattr(semantic, 'data', None), Tensor) else getattr(semantic, 'sem_seg', None)
        if data is not None:
            found = [label for label in torch.as_tensor(data).unique().tolist() if label not in ignored]
    if found is not None:
        return found
    label = getattr(sample, 'gt_label', None)
    return torch.as_tensor(label).flatten().tolist() if isinstance(label, (Tensor, int)) else None
