"""Which windows a model is tested with: the config's, or those that its weights last ran with."""

import re
from typing import Any

from mmengine.config import Config
from torch import nn

from mmvitscale.checkpoints.loading import MatchedWeights, backbones_of
from mmvitscale.checkpoints.metadata import WindowMetadata, describe_window_change, show_windows
from mmvitscale.errors import InputError
from mmvitscale.registry import type_name


def test_windows_of(cfg: Config, options: dict[str, Any] | None = None) -> str:
    """``'checkpoint'`` where the config grows windows during training (``ProgressiveWindowHook``), else ``'config'``.

    Args:
        cfg: the config; ``test_windows`` in it, one of the two, decides.
        options: ``--cfg-options``: a window given there wins.
    """
    if any(re.search(r'(^|\.)backbone\.window_size$', key) for key in options or {}):
        return 'config'
    chosen = cfg.get('test_windows')
    if chosen not in (None, 'checkpoint', 'config'):
        raise InputError(
            f"test_windows is {chosen!r}, but it is 'checkpoint' (the windows that the weights last ran with) or 'config'"
        )
    schedules = [
        hook.get('schedule') or [] for hook in cfg.get('custom_hooks') or [] if type_name(hook) == 'ProgressiveWindowHook'
    ]
    grows = any('window_size' in phase for schedule in schedules for phase in schedule)
    return chosen or ('checkpoint' if grows else 'config')


def apply_checkpoint_windows(model: nn.Module, entries: dict[str, MatchedWeights], cfg: Config) -> list[str]:
    """Before weights are tested: set the windows of each backbone, and return one line for each whose windows are not
    those of the config or not those that the weights last ran with.

    Args:
        model: with its backbones' windows as the config says.
        entries: what ``adapt_checkpoint`` returned.
        cfg: for ``test_windows_of``.
    """
    lines = []
    for prefix, backbone in backbones_of(model).items():
        learned = entries[prefix].weight_metadata if prefix in entries else None
        changed = describe_window_change(learned, backbone.weight_metadata)
        if not changed:
            continue
        assert isinstance(learned, WindowMetadata)  # only windows change
        if test_windows_of(cfg) == 'checkpoint' and all(learned.windows):
            before = show_windows(backbone.weight_metadata.windows)
            unbuilt = len(backbone.depths) - len(learned.windows)
            backbone.set_window_size([*learned.windows, *learned.windows[-1:] * unbuilt])
            lines.append(
                f'the windows of {show_windows(learned.windows)} tokens that the weights last ran with are used, '
                f"not the {before} of the config, since it grows windows; test_windows=config takes the config's"
            )
        else:
            lines.append(changed)
    return lines
