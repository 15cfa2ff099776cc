"""mmvitscale: SwinV2 and DeepViT backbones for dense prediction with OpenMMLab.

``models`` holds the networks, ``checkpoints`` what loads their weights; ``config`` finds configs and fits them to the hardware,
``engine`` trains them with MMEngine, ``inference`` predicts, ``export`` writes files for other runtimes, ``analysis`` and
``profiling`` measure. Nothing needs to be imported: configs name ``mmvitscale.<Type>`` and MMEngine finds it. The code map,
``docs/code_map.md``, names every module.

``list_configs`` and ``load_config`` give the package's configs by name, and a config of one's own may inherit them:
``_base_ = 'mmvitscale::swinv2_upernet_ade20k'``. ``train('data/cells', out='runs/cells')`` trains on data
of any annotation format, and ``Predictor('best.pth')`` is a trained checkpoint, ready to predict.
"""

import importlib
from typing import Any

from mmvitscale.config.loading import list_configs, load_config

__all__ = ['Predictor', 'list_configs', 'load_config', 'train']
__version__ = '0.3.0'
_IMPORTED_LATER = {'Predictor': 'mmvitscale.inference.predictor', 'train': 'mmvitscale.engine.own_data'}


def __getattr__(name: str) -> Any:
    """What is imported when it is first used: with it come mmcv and what reads images."""
    if name not in _IMPORTED_LATER:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(_IMPORTED_LATER[name]), name)
