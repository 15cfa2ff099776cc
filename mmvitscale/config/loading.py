"""From a config's name or file (``config/names.py``) and ``--cfg-options`` to a config."""

from traceback import walk_tb

from mmengine.config import Config, ConfigDict

from mmvitscale.config.names import configs_folder, find_config
from mmvitscale.config.training_options import without_trackers
from mmvitscale.errors import InputError
from mmvitscale.utils.error_translation import message_of


def load_config(path: str, options: dict | None = None) -> Config:
    """Path of a config, or the name of one of this package's, and ``key=value`` overrides -> the config.

    An override of ``data_root`` moves every path that lay under the old one, in datasets and evaluators, but for those that
    other overrides give.

    Raises:
        InputError: for a file that is not there, cannot be read or needs a package that is not installed.
    """
    file = find_config(str(path))
    try:
        cfg = Config.fromfile(file)
    except InputError:
        raise
    except ImportError as error:
        raise InputError(
            f'config {path} needs a package that is not installed ({message_of(error)}); install it, '
            "for detection with: pip install -c constraints.txt -e '.[det]'"
        ) from error
    except (Exception, SystemExit) as error:  # a config is a program: it may raise anything
        raise InputError(f'config {path} cannot be read ({message_of(error)}{_line_of(error)}); correct it') from error
    apply_options(cfg, options, f'config {path}')
    return cfg


def apply_options(cfg: Config, options: dict | None, name: str) -> None:
    """Override a config, in place. An override of ``data_root`` moves every path that lay under the old one, in datasets and
    evaluators, but for those that other overrides give.

    Args:
        cfg: changed in place.
        options: ``key=value``; None for none.
        name: of the config, for the message.

    Raises:
        InputError: for keys that the config cannot have.
    """
    if not options:
        return
    old_root = cfg.get('data_root')
    if 'data_root' in options and old_root:  # before the options, which may name other places
        for key, value in cfg.items():
            cfg[key] = _rebase(value, str(old_root).rstrip('/'), str(options['data_root']).rstrip('/'))
    try:
        cfg.merge_from_dict(options)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f'--cfg-options do not fit {name} ({message_of(error)}); give the keys that it has, numbers for those of a list'
        ) from error


def _line_of(error: BaseException) -> str:
    """Where in a config it was raised. MMEngine runs a copy of the file, under another name."""
    lines = [
        line
        for frame, line in walk_tb(error.__traceback__)
        if frame.f_code.co_name == '<module>' and 'mmengine' not in frame.f_code.co_filename
    ]
    return f', line {lines[-1]}' if lines else ''


def load_test_config(path: str, options: dict | None = None) -> Config:
    """The same for testing and predicting: ``test_windows`` says whose windows run, the checkpoint's or the config's. Raises
    InputError where it is neither."""
    from mmvitscale.checkpoints.window_policy import (
        test_windows_of,  # the package itself is imported without PyTorch's optimizers
    )

    cfg = load_config(path, options)
    without_trackers(cfg)
    cfg.pop('strategy', None)  # how a training is spread over processes; a model is tested whole in each
    cfg.test_windows = test_windows_of(cfg, options)
    return cfg


def add_strategy(cfg: Config, name: str) -> None:
    """Add how a model is spread over processes, one of ``utils.choices.STRATEGIES``: a fragment in ``configs/_base_/scale``."""
    cfg.merge_from_dict(Config.fromfile(configs_folder() / '_base_' / 'scale' / f'{name}.py')._cfg_dict)


def _rebase(value, old: str, new: str):
    """Every string ``old`` or ``old/...`` inside nested dicts and lists, with ``new`` in place of ``old``."""
    if isinstance(value, dict):
        return ConfigDict({key: _rebase(item, old, new) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return type(value)(_rebase(item, old, new) for item in value)
    if isinstance(value, str) and (value.rstrip('/') == old or value.startswith(old + '/')):
        return new + value[len(old) :]
    return value
