"""What the command-line tools share: how they start and end, where they write, how they take several models.

It is imported before a tool knows what it is asked for: what computes, PyTorch and MMEngine with it, is imported in the
functions that use it, here as in the tools, so that ``--help`` and a mistyped option are answered at once.
"""

import argparse
import atexit
import csv
import gc
import logging
import os
import re
import sys
import time
import warnings
from ast import literal_eval
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mmvitscale.checkpoints.names import is_checkpoint
from mmvitscale.config.names import find_config, list_configs
from mmvitscale.datasets.folders import names_in
from mmvitscale.errors import InputError
from mmvitscale.utils.atomic_write import atomic_write
from mmvitscale.utils.choices import AUTO, TRACKERS
from mmvitscale.utils.cpu import limit_kernel_cache, limit_spinning
from mmvitscale.utils.error_translation import explain
from mmvitscale.utils.json_text import json_text
from mmvitscale.utils.processes import LAUNCHER, is_first_process
from mmvitscale.utils.unneeded_imports import import_mmengine, import_segmentors

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mmengine.config import Config

Arguments = TypeVar('Arguments')

# Options of the release before, without those that argparse takes as abbreviations.
_RENAMED_OPTIONS = {
    '--force': '--overwrite',
    '--size': '--image-size',
    '--sizes': '--image-size',
    '--shape': '--image-size',
    '--images': '--batch-size',
    '--memory': '--gpu-memory (in benchmark.py --measure-memory)',
    '--way': '--variant',
    '--against': '--compare-with',
    '--peers': '--implementations',
}

# Seconds that processes of Slurm leave to the first one, whose end ends them, to say what they would say.
_FIRST_WORD = 5


def run_command(parse_args: Callable[[], Arguments], main: Callable[[Arguments], int | None]) -> None:
    """Run a tool and exit with its status: 0, or 1 after one line on stderr if the input cannot work. Of several processes
    the launcher prints the error that ended them.

    Args:
        parse_args: reads the command line, before anything that computes is imported.
        main: the work, with what ``parse_args`` gave; it returns the status, None for 0.
    """
    limit_kernel_cache()
    limit_spinning()
    _collect_less_garbage()
    try:
        args = parse_args()
        from mmvitscale.checkpoints.io import reading_data_only

        with reading_data_only(), without_import_remarks():
            status = main(args) or 0
    except KeyboardInterrupt:
        sys.exit(130)
    except SystemExit as stop:
        if stop.code == 2:  # argparse does not know an option
            _name_renamed_options()
        raise
    except Exception as error:
        sentence = explain(error)
        if LAUNCHER in os.environ:
            _leave_to_launcher(sentence or error)
        elif sentence is None:
            raise
        else:
            if not is_first_process():
                time.sleep(_FIRST_WORD)
            print(f'error: {sentence}', file=sys.stderr)
        sys.exit(1)
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
    sys.exit(status)


def _collect_less_garbage() -> None:
    """Nothing of what imports make, a million objects, is garbage. To look for some among all objects takes a second until a
    model is built, and two more at the end of the process, where it is of no use. Young objects are looked at as always, and
    with them the cycles that hold the memory of a step."""
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, 100)
    atexit.register(gc.freeze)


@contextmanager
def without_import_remarks() -> Iterator[None]:
    """Leave out what packages print when they are imported, though nothing is the matter: OpenMMLab's that a format nobody
    asked for cannot be read (a debug message that ``print_log`` prints), and DeepSpeed's that there is no GPU."""
    import mmengine.logging

    print_log, deepspeed = mmengine.logging.print_log, logging.getLogger('DeepSpeed')

    def selective(msg: Any, logger: Any = None, level: int = logging.INFO) -> None:
        if not (logger is None and str(msg).startswith('Could not import OneDL')):
            print_log(msg, logger, level)

    def about_accelerator(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith('Setting accelerator to CPU')

    mmengine.logging.print_log = selective
    deepspeed.addFilter(about_accelerator)
    try:
        yield
    finally:
        mmengine.logging.print_log = print_log
        deepspeed.removeFilter(about_accelerator)


def _name_renamed_options() -> None:
    for option in sys.argv[1:]:
        if option in _RENAMED_OPTIONS:
            print(f'{option} is called {_RENAMED_OPTIONS[option]} now', file=sys.stderr)


class ConfigOptions(argparse.Action):
    """argparse's action for ``--cfg-options KEY=VALUE ...``: as MMEngine's DictAction, and what that cannot read or changes:
    dicts as Python writes them, spaces, and text in quotes, which stays as it is (``parse_value``). Raises InputError for what
    has no ``=``, or a value that ends in its midst."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        wrong = [value for value in values if '=' not in value or value.startswith('=')]
        if wrong:
            raise InputError(f'{option_string} {wrong[0]} found, but it wants KEY=VALUE, without spaces around the =')
        options = dict(getattr(namespace, self.dest, None) or {})
        for key, value in (item.split('=', 1) for item in values):
            try:
                options[key] = parse_value(value)
            except (MemoryError, RecursionError, SyntaxError, TypeError, ValueError) as error:
                raise InputError(
                    f'{option_string} {key}={value} cannot be read; quote lists and dicts for the shell: '
                    '"KEY=[1,2]", '
                    '"KEY={\'a\': 1}", and text with commas or brackets once more: "KEY=\'a, b\'"'
                ) from error
        setattr(namespace, self.dest, options)


def parse_value(text: str) -> Any:
    """The value of an option: a number, True, False or None; ``V1,V2``, ``[V1,V2]`` or ``(V1,V2)``; a dict, or items in quotes,
    as Python writes them; else text. A value in quotes is text, with its commas, spaces and backslashes. Raises ValueError or
    SyntaxError for brackets or quotes that do not end."""
    text = text.strip()
    if text[:1] in ('"', "'"):
        if len(text) > 1 and text.find(text[0], 1) == len(text) - 1:
            return text[1:-1]
        if ',' not in text:
            return _as_python(text)
    if _ITEM_IN_QUOTES.search(f',{text}'):
        with suppress(SyntaxError, ValueError):  # items with and without quotes are read one by one
            value = _as_python(text)
            return list(value) if isinstance(value, tuple) and not text.startswith('(') else value
    ends, depths = text[:1] + text[1:][-1:], _depths(text)
    enclosed = ends in ('[]', '()', '{}') and not depths[-1] and min(depths[:-1]) > 0
    if ends == '{}' and enclosed or text.startswith('{') and depths[-1]:
        return _as_python(text)
    if enclosed:
        items = _split(text[1:-1])
        return tuple(items) if ends == '()' else items
    return _split(text) if ',' in text else _word(text)


_ITEM_IN_QUOTES = re.compile(r"""[\[(,{]\s*['"]""")


def _word(text: str) -> Any:
    for number in (int, float):
        with suppress(ValueError):
            return number(text)
    return {'true': True, 'false': False}.get(text.lower(), None if text == 'None' else text)


def _as_python(text: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of backslashes, which stay
        return literal_eval(text)


def _depths(text: str) -> list[int]:
    """How many brackets are open behind each character; what stands in quotes at the start of an item opens none and is one
    deeper."""
    found, depth, quote = [], 0, ''
    for before, character in zip(f',{text}', text):
        if quote:
            quote = '' if character == quote else quote
        elif character in '"\'' and before in ',([{ ':
            quote = character
        else:
            depth += (character in '([{') - (character in ')]}')
        found.append(depth + bool(quote))
    return found


def _split(text: str) -> list[Any]:
    """The values between commas outside of brackets."""
    depths = [0, *_depths(text)]
    if depths[-1] or min(depths) < 0:
        raise ValueError('a bracket is not closed')
    commas = [i for i, character in enumerate(text) if character == ',' and not depths[i]]
    items = [text[start + 1 : end] for start, end in zip([-1, *commas], [*commas, len(text)])]
    return [parse_value(item) for item in items if item.strip()]


def _leave_to_launcher(error: BaseException) -> None:
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    get_error_handler().record_exception(error)


def add_model(parser: argparse.ArgumentParser, checkpoint: str = 'checkpoint file') -> None:
    """The arguments ``[CONFIG] CHECKPOINT``, before any ``image``; ``parse_model_args`` reads them. checkpoint: its help."""
    parser.add_argument('config', nargs='?', help='config file (default: the config in the checkpoint)')
    parser.add_argument('checkpoint', help=checkpoint)


def parse_model_args(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line of a parser with ``add_model``; ``config`` is None where the first argument is the checkpoint. Raises
    InputError for an incomplete or disordered one."""
    args = parser.parse_intermixed_args()  # else what stands behind an option would not be found
    _sort_out(args)
    return args


def _sort_out(args: argparse.Namespace) -> None:
    """argparse gives out what it finds from the left, and knows no checkpoints."""
    several = isinstance(getattr(args, 'image', None), list)
    wants_image = hasattr(args, 'image')
    images = args.image if several else [args.image] if wants_image else []
    first, *rest = [text for text in (args.config, args.checkpoint, *images) if text is not None]
    usage = ' IMAGE...' if several else ' IMAGE' if wants_image else ''
    if not is_checkpoint(first):
        _check_first(first, bool(args.config) and (bool(images) or not wants_image), usage)
        return
    args.config, args.checkpoint = None, first
    behind = [text for text in rest if is_checkpoint(text) or Path(text).suffix in _CONFIG_SUFFIXES]
    if behind or len(rest) > len(images) and not several:
        raise InputError(
            f'{(behind or rest)[0]} found behind the checkpoint {first}; the order is [CONFIG] CHECKPOINT{usage}, without '
            'a CONFIG where the checkpoint holds its own'
        )
    if wants_image and not rest:
        raise InputError(f'no image was given; give {first}{usage}, or CONFIG {first}{usage}')
    if wants_image:
        args.image = rest if several else rest[0]


def _check_first(first: str, has_config: bool, usage: str) -> None:
    """Raise InputError for a first argument that is no config where one must be."""
    path = Path(first)
    other = path.is_file() and path.suffix not in _CONFIG_SUFFIXES
    if has_config and not other:
        return
    from mmvitscale.export import is_exported

    if is_exported(first):
        raise InputError(f'{first} is an exported file, which holds no config; give CONFIG {first}{usage}')
    if other or path.is_dir() and path.name not in list_configs():
        raise InputError(f'{first} is neither a config nor a checkpoint (.pth); give [CONFIG] CHECKPOINT{usage}')
    lacks = 'image' if usage else 'checkpoint'
    raise InputError(f'no {lacks} was given; give CONFIG CHECKPOINT{usage}, CONFIG being {find_config(first)} or another')


_CONFIG_SUFFIXES = ('.py', '.yaml', '.yml', '.json')


def config_of(config: str | None, checkpoint: str, options: dict | None, alone: bool = False) -> 'Config':
    """The config of a model on a command line, for testing: its file's, or the one in its checkpoint. Raises InputError.

    Args:
        config: file, None for the one in the checkpoint.
        checkpoint: file.
        options: what overrides the config.
        alone: the process runs this model and no other, so that packages which it does not need can be left out.
    """
    if alone:
        import_mmengine()
    from mmvitscale.config.embedded import load_embedded_config
    from mmvitscale.config.loading import load_test_config

    prepare = import_segmentors if alone else None
    if not config:
        return load_embedded_config(checkpoint, options, prepare)
    cfg = load_test_config(config, options)
    if prepare is not None:
        prepare(cfg)
    return cfg


def batch_size(text: str) -> int | str:
    """Of a command line: a number, or AUTO."""
    return text if text == AUTO else int(text)


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of a training (``config/training_options.py``), of tools that train or write a config for it."""
    parser.add_argument(
        '--batch-size',
        type=batch_size,
        metavar='N|auto',
        help='images in a batch of one process; auto: as many as fit into the GPU',
    )
    parser.add_argument('--ema', action='store_true', help='average the weights (EMA); the averages are validated and saved')
    parser.add_argument(
        '--early-stop', type=int, metavar='N', help='end after N validations without an improvement of the main metric'
    )
    parser.add_argument(
        '--track',
        nargs='+',
        choices=TRACKERS,
        default=[],
        metavar='NAME',
        help=f'experiment trackers for metrics, config and pictures: {", ".join(TRACKERS)}',
    )


@dataclass(frozen=True)
class ModelArguments:
    """A model on a command line: config (None for the one in the checkpoint), checkpoint, what overrides the config, and a
    label of its own for tables and pictures."""

    config: str | None
    checkpoint: str
    options: dict | None
    label: str

    def load_config(self) -> 'Config':
        """For testing. Raises InputError."""
        return config_of(self.config, self.checkpoint, self.options)


def add_models(parser: argparse.ArgumentParser) -> None:
    """Arguments of a tool that looks at one model, or at several side by side."""
    add_model(parser)
    parser.add_argument(
        '--compare-with',
        nargs='+',
        action='append',
        default=[],
        metavar='ARG',
        help='another model: [CONFIG] CKPT [KEY=VALUE ...]; may be given several times',
    )
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='override the first config')


def models_of(args: argparse.Namespace) -> list[ModelArguments]:
    """What ``add_models`` asked for. Raises InputError for an incomplete model."""
    found = [(args.config, args.checkpoint, args.cfg_options)]
    for first, *rest in args.compare_with:
        config = None if is_checkpoint(first) else first
        if config and not rest:
            raise InputError(f'--compare-with {config} found, but it wants [CONFIG] CKPT [KEY=VALUE ...]')
        checkpoint, *values = rest if config else [first, *rest]
        parser = argparse.ArgumentParser()
        parser.add_argument('--options', nargs='+', action=ConfigOptions)
        options = parser.parse_args(['--options', *values]).options if values else None
        found.append((config, checkpoint, options))
    labels = distinct_labels([checkpoint for _, checkpoint, _ in found], parts=2)
    first = found[0][2] or {}
    models = []
    for (config, checkpoint, options), label in zip(found, labels):
        if found[0][1] == checkpoint and label != labels[0]:  # as much as distinguishes it from the first
            label = ' '.join([label, *(f'{k}={v}' for k, v in (options or {}).items() if first.get(k) != v)])
        models.append(ModelArguments(config, checkpoint, options, label))
    return models


def distinct_labels(paths: Sequence[str | Path], parts: int = 1) -> list[str]:
    """Short names of paths for tables and pictures, no two the same: their last parts, as many as distinguish them, at least
    ``parts``; of a path that is there several times, the further ones with a number."""
    labels: list[str] = []
    split = [Path(path).parts for path in paths]
    for own in split:
        needed = parts
        while needed < len(own) and any(other != own and other[-needed:] == own[-needed:] for other in split):
            needed += 1
        name = str(Path(*own[-needed:]))
        label, number = name, 1
        while label in labels:
            number += 1
            label = f'{name} {number}'
        labels.append(label)
    return labels


def names_of(text: str) -> list[str]:
    """Names with commas between them, in double quotes where one has a comma; or a file with a name in each line."""
    if Path(text).is_file():
        return names_in(Path(text).read_text('utf-8-sig'))
    rows = csv.reader([text], skipinitialspace=True)
    return [name.strip() for row in rows for name in row if name.strip()]


def save_json(content: object, path: str | Path) -> None:
    """As valid JSON (``json_text``), atomically. Raises InputError if the file cannot be written."""
    with atomic_write(path, advice='give a file in a folder that can be written') as part:
        part.write_text(json_text(content))


def save_figure(figure: 'Figure', path: Path) -> None:
    """A matplotlib figure as PNG, atomically. Raises InputError if the file cannot be written."""
    with atomic_write(path, advice='give a folder that can be written') as part:
        figure.savefig(part, dpi=120, bbox_inches='tight')
