"""The names of a model's classes: from its checkpoint, from its config, or numbers."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from torch import nn

from mmvitscale.checkpoints.metadata import dataset_meta_in
from mmvitscale.config.view import ConfigView, as_list, plain_datasets
from mmvitscale.datasets.delivered import class_of
from mmvitscale.errors import InputError

# Heads that count other classes than the data: proposals, a branch of stuff.
_OTHER_HEADS = ('rpn_head', 'semantic_head')


def dataset_meta_of(cfg: Config, checkpoint: dict, model: nn.Module) -> dict:
    """``classes`` and, where known, ``palette``: as the checkpoint has them, or as the config's test data set or its class
    declares them. Where nobody names the classes, they are ``class_0`` and so on, as many as the model has.

    Args:
        cfg: of any task with a test data set.
        checkpoint: what its file held.
        model: the config's.

    Raises:
        InputError: where there is neither a name nor a number of classes.
    """
    meta = checkpoint['meta'] if isinstance(checkpoint.get('meta'), dict) else {}
    older = dict(classes=meta.get('CLASSES'), palette=meta.get('PALETTE'))  # of OpenMMLab before MMEngine
    own = [{**found, 'classes': as_list(found.get('classes'))} for found in (dataset_meta_in(checkpoint), older)]
    for found in (*own, *(_declared(cfg, data) for data in _datasets(cfg))):  # a checkpoint's text is a name, never a file
        classes = _names_in(found.get('classes'))
        if classes:
            break
    else:
        found, classes = {}, []
    count = _number_of_classes(model) if ConfigView(cfg).task != 'detection' or not classes else 0
    if not classes and not count:
        raise InputError(
            f'neither the checkpoint nor {cfg.filename} names classes, and the model has no head that counts them; add '
            "test_dataloader.dataset.metainfo=dict(classes=['...']) to the config"
        )
    return {**found, 'classes': (*classes, *(f'class_{i}' for i in range(len(classes), count)))}


def _datasets(cfg: Config) -> Sequence[ConfigDict]:
    loader = cfg.get('test_dataloader')
    return [loader.dataset, *plain_datasets(loader.dataset)] if loader else []


def _declared(cfg: Config, dataset: ConfigDict) -> dict:
    """What a data set's config says of its classes, or else its class."""
    own = dict(dataset.get('metainfo') or {})
    if not own.get('classes'):
        own['classes'] = dataset.get('classes')  # mmpretrain's
    return own if own['classes'] else dict(getattr(class_of(cfg, dataset), 'METAINFO', {}))


def _names_in(classes: Any) -> list[str]:
    """A list of names, the only one, or a file with a name in each line -> the names."""
    if isinstance(classes, str):
        path = Path(classes)
        return path.read_text(encoding='utf-8').splitlines() if path.is_file() else [classes]
    return [str(name) for name in classes] if isinstance(classes, (list, tuple)) else []


def _number_of_classes(model: nn.Module) -> int:
    counts = (
        getattr(module, 'num_classes', None)
        for name, module in model.named_modules()
        if not any(part in _OTHER_HEADS for part in name.split('.'))
    )
    return max((count for count in counts if isinstance(count, int)), default=0)


def distinct_names(classes: Sequence[str]) -> list[str]:
    """The names, those that several classes have with the number of the class: ImageNet has two cranes."""
    times = Counter(classes)
    names = [f'{name} ({i})' if times[name] > 1 else name for i, name in enumerate(classes)]
    return names if len(set(names)) == len(names) else distinct_names(names)
