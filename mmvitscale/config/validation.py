"""Whether a config has the parts and the numbers that a tool requires."""

from typing import Any

from mmengine.config import Config

from mmvitscale.config.view import ConfigView, as_list
from mmvitscale.errors import InputError
from mmvitscale.registry import type_name

# Numbers that a config has whatever its task -> the least that each may be.
_NUMBERS = {
    **{f'{split}_dataloader.batch_size': 1 for split in ('train', 'val', 'test')},
    **{f'{split}_dataloader.num_workers': 0 for split in ('train', 'val', 'test')},
    'train_cfg.max_iters': 1,
    'train_cfg.max_epochs': 1,
    'train_cfg.val_interval': 1,
    'train_cfg.val_begin': 0,
    'randomness.seed': 0,
    'optim_wrapper.accumulative_counts': 1,
    'optim_wrapper.optimizer.lr': 0,
    'optim_wrapper.optimizer.weight_decay': 0,
}


def check_parts(cfg: Config, *names: str) -> None:
    """Raise InputError unless the config has these parts, and its data loaders a data set."""
    for name in names:
        part = cfg.get(name)
        if not isinstance(part, dict) or not part:
            raise InputError(
                f'config {cfg.filename} has no {name} ({name}={part!r}), a dict; inherit one of the recipes with _base_'
            )
        if name.endswith('_dataloader') and not isinstance(part.get('dataset'), dict):
            raise InputError(f'{name} of config {cfg.filename} has no dataset, a dict; add it')


def check_losses(cfg: Config) -> None:
    """Raise InputError for losses of segmentation and classification that are zero whatever a model predicts, or whose class
    weights do not fit the classes."""
    _check_losses(cfg.get('model'), 'model')


def check_schedulers(cfg: Config) -> None:
    """Raise InputError for a scheduler that counts epochs where a training counts iterations: it would never take a step."""
    view = ConfigView(cfg)
    schedulers = [item for item in view.schedulers() if isinstance(item, dict)]
    for scheduler in schedulers if view.counts_iterations else ():
        name = type_name(scheduler)
        counts_epochs = scheduler.get('by_epoch', True) and not scheduler.get('convert_to_iter_based')
        if counts_epochs and 'ReduceOnPlateau' not in name:  # which counts validations
            raise InputError(
                f'the scheduler {name} counts epochs (by_epoch=True, its default), but the training iterations, so that it '
                'would never take a step; set by_epoch=False, with begin, end and milestones in iterations'
            )


def check_ignored_labels(cfg: Config) -> None:
    """Raise InputError where the parts of a segmentation leave out different labels: heads, padding of label maps, and the
    evaluation."""
    model, view = cfg.get('model') or {}, ConfigView(cfg)
    heads = [head for key in ('decode_head', 'auxiliary_head') for head in as_list(model.get(key)) if isinstance(head, dict)]
    if cfg.get('default_scope') != 'mmseg' or not heads:
        return
    parts = {f'ignore_index of head {i + 1}': head.get('ignore_index', 255) for i, head in enumerate(heads)}
    parts['data_preprocessor.seg_pad_val'] = (model.get('data_preprocessor') or {}).get('seg_pad_val', 255)
    for metric in as_list(cfg.get('val_evaluator')):
        if type_name(metric) == 'IoUMetric':
            parts['val_evaluator.ignore_index'] = metric.get('ignore_index', 255)
    for split in ('train', 'val'):
        for dataset in view.datasets(split):
            if 'ignore_index' in dataset:
                parts[f'ignore_index of the {split} data set'] = dataset.ignore_index
    if 'val_evaluator.ignore_index' in parts and len(set(parts.values())) > 1:
        found = ', '.join(f'{name} {value}' for name, value in parts.items())
        raise InputError(
            f'labels that are left out differ ({found}); give ignore_index of heads, data sets and val_evaluator, and '
            'data_preprocessor.seg_pad_val one value, or write 255 in the label maps'
        )


def _check_losses(part: Any, path: str) -> None:
    if isinstance(part, (list, tuple)):
        for index, item in enumerate(part):
            _check_losses(item, f'{path}.{index}')
    if not isinstance(part, dict):
        return
    for key in ('loss_decode', 'loss'):  # of mmsegmentation, of mmpretrain
        for loss in as_list(part.get(key)):
            if isinstance(loss, dict) and type_name(loss) == 'CrossEntropyLoss':
                _check_cross_entropy(part, loss, f'{path}.{key}')
    for key, value in part.items():
        _check_losses(value, f'{path}.{key}')


def _check_cross_entropy(head: dict, loss: dict, path: str) -> None:
    channels, weights = head.get('out_channels') or head.get('num_classes'), loss.get('class_weight')
    softmax = not loss.get('use_sigmoid') and not loss.get('use_soft')
    if channels == 1 and softmax:
        raise InputError(
            f'{path} is a softmax over one class, which is 1 and its loss 0 whatever the model predicts; set num_classes=2 '
            'with the background as a class of its own, or use_sigmoid=True in the loss'
        )
    if not isinstance(weights, (list, tuple)) or not isinstance(channels, int):
        return
    if (
        not softmax and len(weights) > 1 and isinstance(weights[0], (int, float)) and 'loss_decode' in path
    ):  # mmsegmentation#3811
        shaped = ', '.join(f'[[{weight}]]' for weight in weights[:2])
        raise InputError(
            f'{path} has use_sigmoid=True and class_weight={list(weights)}, which mmsegmentation lays along the width of the '
            f'image; write [{shaped}{", ..." if len(weights) > 2 else ""}], or use softmax (use_sigmoid=False)'
        )
    if len(weights) not in (channels, channels + 1):  # one more of what is no object
        raise InputError(
            f'{path}.class_weight has {len(weights)} numbers, but there are {channels} classes; write one for each class'
        )


def check_numbers(cfg: Config) -> None:
    """Raise InputError where a number of the training is none, or too small."""
    for path, least in _NUMBERS.items():
        *folders, key = path.split('.')
        part: Any = cfg
        for folder in folders:
            part = part.get(folder) if isinstance(part, dict) or part is cfg else None
        value = part.get(key) if isinstance(part, dict) else None
        if key in ('max_iters', 'max_epochs') and isinstance(value, float) and value.is_integer() and value >= least:
            continue  # 1e5
        rate = key in ('lr', 'weight_decay', 'val_interval')
        fits = isinstance(value, (int, float) if rate else int) and not isinstance(value, bool) and value >= least
        if value is not None and not fits:
            raise InputError(
                f'{path}={value!r} found, but it is a {"" if rate else "whole "}number of at least {least}; correct it'
            )
