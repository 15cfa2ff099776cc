"""What the command-line tools share: how they end, where they write, how they take several models."""

import argparse
import json
import os
import sys
import time
from ast import literal_eval
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mmengine.config import DictAction

from mmvitscale.checkpoints.io import reading_data_only
from mmvitscale.errors import InputError
from mmvitscale.utils.atomic_write import atomic_write
from mmvitscale.utils.cpu import limit_kernel_cache
from mmvitscale.utils.error_translation import explain
from mmvitscale.utils.processes import LAUNCHER, is_first_process

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def run_command(main: Callable[[], int | None]) -> None:
    """Run a tool and exit with its status: 0, or 1 after one line on stderr if the input cannot work. Of several processes
    the launcher prints the error that ended them."""
    limit_kernel_cache()
    try:
        with reading_data_only():
            status = main() or 0
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
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    sys.exit(status)


def _name_renamed_options() -> None:
    for option in sys.argv[1:]:
        if option in _RENAMED_OPTIONS:
            print(f'{option} is called {_RENAMED_OPTIONS[option]} now', file=sys.stderr)


class ConfigOptions(DictAction):
    """argparse's action for ``--cfg-options KEY=VALUE ...``: MMEngine's, and dicts as Python writes them. Raises InputError for
    what has no ``=``, or a value that ends in its midst."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        wrong = [value for value in values if '=' not in value or value.startswith('=')]
        if wrong:
            raise InputError(f'{option_string} {wrong[0]} found, but it wants KEY=VALUE, without spaces around the =')
        options = dict(getattr(namespace, self.dest, None) or {})
        for key, value in (item.split('=', 1) for item in values):
            try:
                options[key] = literal_eval(value) if '{' in value else self._parse_iterable(value)
            except (AssertionError, IndexError, RecursionError, SyntaxError, ValueError) as error:
                raise InputError(
                    f'{option_string} {key}={value} cannot be read; quote lists and dicts for the shell: '
                    '"KEY=[1,2]", '
                    '"KEY={\'a\': 1}"'
                ) from error
        setattr(namespace, self.dest, options)


def _leave_to_launcher(error: BaseException) -> None:
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    get_error_handler().record_exception(error)


@dataclass(frozen=True)
class ModelArguments:
    """A model on a command line: config, checkpoint, what overrides the config, and a label of its own for tables and
    pictures."""

    config: str
    checkpoint: str
    options: dict | None
    label: str


def add_models(parser: argparse.ArgumentParser) -> None:
    """Arguments of a tool that looks at one model, or at several side by side."""
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--compare-with',
        nargs='+',
        action='append',
        default=[],
        metavar='ARG',
        help='another model: CONFIG CKPT [KEY=VALUE ...]; may be given several times',
    )
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='override the first config')


def models_of(args: argparse.Namespace) -> list[ModelArguments]:
    """What ``add_models`` asked for. Raises InputError for an incomplete model."""
    found = [(args.config, args.checkpoint, args.cfg_options)]
    for config, *rest in args.compare_with:
        if not rest:
            raise InputError(f'--compare-with {config} found, but it wants CONFIG CKPT [KEY=VALUE ...]')
        parser = argparse.ArgumentParser()
        parser.add_argument('--options', nargs='+', action=ConfigOptions)
        options = parser.parse_args(['--options', *rest[1:]]).options if rest[1:] else None
        found.append((config, rest[0], options))
    models: list[ModelArguments] = []
    for config, checkpoint, options in found:
        label = '/'.join(Path(checkpoint).parts[-2:])
        if label in [model.label for model in models]:  # as much as distinguishes it from the others
            different = {k: v for k, v in (options or {}).items() if (models[0].options or {}).get(k) != v}
            label = ' '.join([label, str(len(models) + 1), *(f'{k}={v}' for k, v in different.items())])
        models.append(ModelArguments(config, checkpoint, options, label))
    return models


def save_json(content: object, path: str | Path) -> None:
    """As JSON, atomically. Raises InputError if the file cannot be written."""
    with atomic_write(path, advice='give a file in a folder that can be written') as part:
        part.write_text(json.dumps(content, indent=1) + '\n')


def save_figure(figure: 'Figure', path: Path) -> None:
    """A matplotlib figure as PNG. Raises InputError if the file cannot be written."""
    try:
        figure.savefig(path, dpi=120, bbox_inches='tight')
    except OSError as error:
        raise InputError(f'cannot write {path} ({error.strerror}); give a folder that can be written') from error
