"""OpenMMLab's packages imported without what they import wherever it is installed, needed or not: seconds of every start.

MMEngine imports DeepSpeed for one strategy and transformers for one optimizer; mmsegmentation imports mmdetection, which takes
as long as itself, for its mask classification heads, and mmpretrain for one data set. While they are imported here such a
package counts as not installed, which they are made for. For the process of one command alone, whose config is known: what was
left out stays out.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

# Packages that MMEngine imports -> names in a config that need them.
_OF_MMENGINE = {'deepspeed': 'DeepSpeed|Onebit|ZeroOneAdam|FusedAdam|FusedLamb', 'transformers': 'Adafactor'}
# The same of those that mmsegmentation imports.
_OF_MMSEG = {'mmdet': 'mmdet|mask2?former', 'mmpretrain': 'mmpretrain|onedl'}

# Whose types are known not to need more than is named above.
_KNOWN_SCOPES = ('mmcv', 'mmdet', 'mmengine', 'mmpretrain', 'mmseg', 'mmvitscale', 'torch')


def import_mmengine(cfg: Mapping[str, Any] | None = None) -> None:
    """Import MMEngine's runners, models and optimizers, with no more than a training by the config needs; None: no training."""
    if cfg is None or not _imports(cfg):
        unneeded = [name for name, users in _OF_MMENGINE.items() if cfg is None or not _names(cfg, users)]
        _import_without(unneeded, 'mmengine.runner')


def import_segmentors(cfg: Mapping[str, Any]) -> None:
    """Import mmsegmentation's models and data sets, if the config is one of it, with no more than it needs."""
    if cfg.get('default_scope') == 'mmseg' and not _imports(cfg):
        unneeded = [name for name, users in _OF_MMSEG.items() if not _names(cfg, users)]
        for module in ('mmseg.models', 'mmseg.datasets'):
            _import_without(unneeded, module)


def _imports(cfg: Mapping[str, Any]) -> bool:
    """Whether a config, one in pure Python among them, imports something itself, or names a type of another package: that may
    need whatever is installed."""
    if cfg.get('custom_imports') or getattr(cfg, '_imported_names', None):
        return True
    scopes = re.findall(r"'type': '(\w+)\.", str(dict(cfg)))
    return not set(_KNOWN_SCOPES).issuperset(scopes)


def _names(cfg: Mapping[str, Any], words: str) -> bool:
    return re.search(words, str(dict(cfg)), re.IGNORECASE) is not None


def _import_without(unneeded: list[str], module: str) -> None:
    if module not in sys.modules:
        with _counted_as_missing(unneeded), suppress(ImportError):  # who needs the module imports it again, and says so
            import_module(module)


@contextmanager
def _counted_as_missing(packages: list[str]) -> Iterator[None]:
    """To import what is None in ``sys.modules`` fails as if it were not installed."""
    absent = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
