"""Error translation: bad input on which other packages raise from deep inside -> our one sentence. What is not known to be one
stays an error with its traceback: a defect of ours is never reported as somebody's mistake."""

import errno
import linecache
import os
import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import Any

from mmvitscale.errors import InputError, is_ours
from mmvitscale.utils import renamed_arguments

_IN_WORKER = re.compile(r'^Caught (\w+) in DataLoader worker process')


def explain(error: BaseException) -> InputError | None:
    """An exception that ended a tool -> what to say, None if nothing is known of it."""
    if isinstance(error, InputError) or _IN_WORKER.match(str(error)):
        return _from_worker(error)
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    for say in (
        _out_of_memory,
        _not_there,
        _unwritable,
        _refused_pickle,
        _cannot_be_built,
        _refused,
        _by_an_option,
        _in_a_layer,
    ):
        sentence = say(error, frames)
        if sentence:
            return InputError(sentence)
    behind = error.__context__ if frames and frames[-1].f_code.co_name == 'call_hook' else error.__cause__
    return explain(behind) if behind is not None else None  # MMEngine raises what its hooks raise again


def message_of(error: BaseException) -> str:
    """Its type and the first line of what it says; where it says nothing, the line that raised it."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    text = lines[0] if lines else ''
    if isinstance(error, KeyError) and text:
        text = f'the key {text} is missing' if ' ' not in text.strip('\'"') else text.strip('\'"')
    if not text:
        frames = list(walk_tb(error.__traceback__))
        if frames:
            frame, line = frames[-1]
            text = linecache.getline(frame.f_code.co_filename, line).strip()
    text = text if len(text) < 300 else text[:297] + '...'
    return f'{type(error).__name__}: {text}' if text else type(error).__name__


def _from_worker(error: BaseException) -> InputError | None:
    """Errors of loading processes come with their traceback in the message."""
    text = str(error)
    if not _IN_WORKER.match(text):
        return error if isinstance(error, InputError) else None
    if isinstance(error, InputError):
        return InputError(text[text.rindex('InputError: ') + len('InputError: ') :].strip())
    if isinstance(error, MemoryError) or 'allocate memory' in text:
        return InputError(_WANT_OF_MEMORY)
    return None


_WANT_OF_MEMORY = (
    'the memory does not suffice; take smaller images, batches or tiles, or with_cp=True of the backbone: '
    'tools/analysis/memory_plan.py says what fits'
)


def _out_of_memory(error: BaseException, frames: list[FrameType]) -> str | None:
    text = str(error).lower()
    known = isinstance(error, MemoryError) or type(error).__name__ == 'OutOfMemoryError'
    known = known or isinstance(error, RuntimeError) and ("can't allocate memory" in text or 'out of memory' in text)
    return _WANT_OF_MEMORY if known else None


def _not_there(error: BaseException, frames: list[FrameType]) -> str | None:
    kinds = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
    if not isinstance(error, kinds) or not frames or is_ours(frames[-1].f_code.co_filename):
        return None
    what = f'{error.filename} is not there ({error.strerror})' if error.filename is not None else str(error).rstrip('.')
    return f'{what}; check the path'


def _unwritable(error: BaseException, frames: list[FrameType]) -> str | None:
    if not isinstance(error, OSError) or error.errno not in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.EIO,
        errno.ENAMETOOLONG,
        errno.EMFILE,
        errno.ENFILE,
        errno.ELOOP,
    ):
        return None
    where = error.filename if error.filename is not None else 'a file'
    return f'{where} cannot be read or written ({os.strerror(error.errno)}); check its rights, and the space on the disk'


def _refused_pickle(error: BaseException, frames: list[FrameType]) -> str | None:
    """Of files that MMEngine reads in a tool, where nothing that unpickles runs code."""
    if type(error).__name__ != 'UnpicklingError':
        return None
    path = next(
        (
            value
            for frame in reversed(frames)
            for name in ('filename', 'file', 'f')
            if isinstance(value := frame.f_locals.get(name), (str, Path))
        ),
        'a file',
    )
    if 'unsupported global' in str(error).lower() or 'unsupported class' in str(error).lower():
        return (
            f'{path} holds Python objects whose loading would run code, so it was not loaded; save it again with tensors, '
            'numbers and strings only'
        )
    return f'{path} is no checkpoint of PyTorch or is damaged; download or save it again'


def _cannot_be_built(error: BaseException, frames: list[FrameType]) -> str | None:
    """Of what a config describes: the innermost thing that a registry was building, as long as no line of ours ran in it."""
    builds = [
        i
        for i, frame in enumerate(frames)
        if frame.f_code.co_filename.endswith(('build_functions.py', 'registry.py'))
        and 'mmengine' in Path(frame.f_code.co_filename).parts
        and frame.f_code.co_name
        in ('build_from_cfg', 'build_runner_from_cfg', 'build_model_from_cfg', 'build_scheduler_from_cfg')
    ]
    if not builds or not isinstance(error, Exception):
        return None
    inside = frames[builds[-1] + 1 :]
    if any(is_ours(frame.f_code.co_filename) for frame in inside if frame.f_code.co_filename != renamed_arguments.__file__):
        return None
    frame = frames[builds[-1]]
    kind = frame.f_locals.get('obj_type') or (frame.f_locals.get('cfg') or {}).get('runner_type', 'Runner')
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind))
    registry = frame.f_locals.get('registry')
    if isinstance(error, KeyError) and 'is not in the' in str(error):
        what = getattr(registry, 'name', 'type')
        close = get_close_matches(name.split('.')[-1], _known(registry), n=1, cutoff=0.6)
        return (
            f'type {name!r} found in the config, but no {what} of this name is known'
            f'{f"; did you mean {close[0]}?" if close else ""}; correct it, or import its package with custom_imports'
        )
    if isinstance(error, ImportError):
        return f'{name} of the config needs a package that is not installed ({error}); install it'
    what = (
        'the config cannot be run'
        if frame.f_code.co_name == 'build_runner_from_cfg'
        else f'{name} cannot be built as the config says'
    )
    return f'{what} ({message_of(error)}); correct it'


def _known(registry: Any) -> list[str]:
    names: list[str] = []
    while registry is not None:
        names += list(registry.module_dict)
        names += [name for child in registry.children.values() for name in child.module_dict]
        registry = registry.parent
    return names


def _refused(error: BaseException, frames: list[FrameType]) -> str | None:
    """Of what a metric or a loop finds wrong with the config when it runs: it raises with a reason."""
    if not isinstance(error, (KeyError, ValueError, RuntimeError, AssertionError)) or not str(error) or not frames:
        return None
    *_, (last, number) = walk_tb(error.__traceback__)
    raised = linecache.getline(last.f_code.co_filename, number).strip().startswith(('raise', 'assert'))
    if not raised or is_ours(last.f_code.co_filename):
        return None
    if isinstance(error, RuntimeError) and last.f_code.co_name == 'build_train_loop':
        return 'train_cfg has both type and by_epoch, and either says how the training is counted; leave one of them out'
    metrics = [frame.f_locals.get('self') for frame in frames if frame.f_code.co_name in ('process', 'compute_metrics')]
    if not metrics or not hasattr(metrics[-1], 'dataset_meta'):
        return None
    name = type(metrics[-1]).__name__
    known = '; mIoU, mDice and mFscore are' if name == 'IoUMetric' and 'is not supported' in str(error) else ''
    return f'{name} cannot be computed ({message_of(error)}{known}); correct its options in val_evaluator and test_evaluator'


def _by_an_option(error: BaseException, frames: list[FrameType]) -> str | None:
    """Of options whose number of values is not that of the classes or maps, where a layer meets them."""
    if not isinstance(error, (RuntimeError, ValueError, IndexError, AssertionError)):
        return None
    modules = [frame.f_locals['self'] for frame in frames if _is_module(frame.f_locals.get('self'))]
    last = frames[-1].f_locals
    if not modules:
        return None
    if _length(getattr(modules[-1], 'class_weight', None)):
        sentence = _about_class_weight(modules, frames)
        if sentence:
            return sentence
    for frame in frames:
        head: Any = frame.f_locals.get('self')
        inputs: Any = frame.f_locals.get('inputs')
        if isinstance(error, IndexError) and frame.f_code.co_name == '_transform_inputs' and _length(inputs):
            return (
                f'in_index {head.in_index} of {_named(head, modules)} found, but it is given {len(inputs)} maps, 0 to '
                f'{len(inputs) - 1}; correct it, or out_indices of the backbone'
            )
    maps, levels = _length(last.get('featmap_sizes')), getattr(getattr(modules[-1], 'prior_generator', None), 'num_levels', 0)
    if isinstance(error, AssertionError) and maps and levels and maps != levels:
        return (
            f'{_named(modules[-1], modules)} has anchors for {levels} maps, but is given {maps}; make num_outs of the neck the '
            'number of strides of the anchors (anchor_generator.strides)'
        )
    return None


def _about_class_weight(modules: list[Any], frames: list[FrameType]) -> str | None:
    loss = modules[-1]
    given, name = _length(loss.class_weight), _named(loss, modules)
    found: list[Any] = [frame.f_locals.get(variable) for frame in frames for variable in ('cls_score', 'pred')]
    scores = [score for score in found if getattr(score, 'ndim', 0) > 1]
    if getattr(loss, 'use_sigmoid', False) and scores and scores[-1].ndim == 4:  # mmsegmentation#3811
        return (
            f'class_weight and use_sigmoid=True of {name} found, with which mmsegmentation lays the weights along the width of '
            f'the image; give them as [[[1.0]], [[2.0]], ...], one for each of the {scores[-1].shape[1]} classes, or take '
            'use_sigmoid=False'
        )
    if scores and scores[-1].shape[1] != given:
        return (
            f'class_weight of {name} has {given} values, but {scores[-1].shape[1]} classes are predicted; give one for each of '
            'them, in their order'
        )
    return None


def _length(value: Any) -> int:
    return len(value) if hasattr(value, '__len__') and not isinstance(value, str) else 0


def _named(module: Any, modules: list[Any]) -> str:
    """A module as the config names it; its type where it is not in the model."""
    names = {id(inner): name for name, inner in modules[0].named_modules()}
    return names.get(id(module)) or type(module).__name__


# Errors of PyTorch's layers -> what is the matter with the config or the data. The layer is named.
_LAYERS: list[tuple[str, Callable[[Any, str, Any], str]]] = [
    (
        r'Expected more than 1 value per channel when training',
        lambda m, layer, model: (
            f'BatchNorm in {layer} has a single value for each channel, of one image pooled to one pixel: '
            'give each GPU 2 images or more (train_dataloader.batch_size=2; gradient accumulation does not help), or take '
            'GroupNorm: '
            f'--cfg-options {_group_norms(model)}'
        ),
    ),
    (
        r'expected input(?:\[[\d, ]*\])? to have (\d+) channels, but got (\d+) channels',
        lambda m, layer, model: (
            f'{layer} takes {m[1]} channels and was given {m[2]}; the channels of an image are in_channels '
            'of the backbone, and those of its outputs in_channels of neck and heads: make them equal'
        ),
    ),
    (
        r'mat1 and mat2 shapes cannot be multiplied \((\d+x\d+) and (\d+x\d+)\)',
        lambda m, layer, model: (
            _wrong_images(layer)
            or f'{layer} was given features of {m[1].split("x")[1]} channels and takes {m[2].split("x")[0]}; make in_channels '
            'of neck and heads those of the backbone'
        ),
    ),
    (
        r'Target (-?\d+) is out of bounds',
        lambda m, layer, model: (
            f'a label is {m[1]}, which {layer} has no score for; correct the labels, or num_classes and out_channels'
        ),
    ),
    (
        r'Class values must be smaller than num_classes|index out of range in self',
        lambda m, layer, model: f'a label or index given to {layer} is beyond what it has; correct the labels, or num_classes',
    ),
    (
        r'stack expects each tensor to be equal size',
        lambda m, layer, model: (
            f'tensors that meet in {layer} have different sizes; crop or pad images and labels to one (RandomCrop in the '
            'pipeline, size of the data preprocessor)'
        ),
    ),
    (
        r'(Sizes of tensors must match except.*|The size of tensor a.*|shape mismatch.*)',
        lambda m, layer, model: (
            f'tensors that meet in {layer} have different sizes ({m[1]}); correct what gives these numbers: options of it '
            'with a value for each class or coordinate, channels and strides of neck and heads, or the size of the labels'
        ),
    ),
]


def _in_a_layer(error: BaseException, frames: list[FrameType]) -> str | None:
    """Of shapes that do not fit, in a layer that is not ours or was built with a number of the config."""
    if not isinstance(error, (RuntimeError, ValueError, IndexError)):
        return None
    modules = [frame.f_locals['self'] for frame in frames if _is_module(frame.f_locals.get('self'))]
    if not modules:
        return None
    # In the midst of our layers it is a defect of ours, but where images come in.
    ours = [i for i, frame in enumerate(frames) if is_ours(frame.f_code.co_filename)]
    if ours and _is_module(frames[ours[-1]].f_locals.get('self')) and 'patch_embed' not in frames[ours[-1]].f_code.co_filename:
        return None
    names = {id(module): name for name, module in modules[0].named_modules()}
    named = [names[id(module)] for module in modules if names.get(id(module))]
    layer = f'the layer {named[-1]}' if named else f'the {type(modules[-1]).__name__}'
    for pattern, say in _LAYERS:
        match = re.search(pattern, str(error))
        if match:
            return say(match, layer, modules[0])
    return None


def _wrong_images(layer: str) -> str:
    if not layer.endswith('patch_embed'):
        return ''
    return (
        f'{layer} takes images of another number of channels than it was given; make in_channels of the backbone that of '
        'the images'
    )


def _group_norms(model: Any) -> str:
    """What puts GroupNorm into a model's neck and heads; 16 groups divide the channels of all of OpenMMLab's."""
    parts = {name.split('.')[0]: module for name, module in model.named_modules() if 'BatchNorm' in type(module).__name__}
    return ' '.join(
        f'model.{part}.norm_cfg.{option}' for part in parts if part != 'backbone' for option in ('type=GN', 'num_groups=16')
    )


def _is_module(value: Any) -> bool:
    return hasattr(value, 'named_modules') and hasattr(value, 'forward') and not isinstance(value, type)
