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
from typing import TYPE_CHECKING, Any

from mmvitscale.config.base_lookup import teach_mmengine

if TYPE_CHECKING:
    from mmvitscale.config.loading import load_config
    from mmvitscale.config.names import list_configs
    from mmvitscale.engine.own_data import train
    from mmvitscale.inference.predictor import Predictor

__all__ = ['Predictor', 'list_configs', 'load_config', 'train']
__version__ = '0.3.0'
_IMPORTED_LATER = {
    'Predictor': 'mmvitscale.inference.predictor',
    'list_configs': 'mmvitscale.config.names',
    'load_config': 'mmvitscale.config.loading',
    'train': 'mmvitscale.engine.own_data',
}

teach_mmengine()


def __getattr__(name: str) -> Any:
    """What is imported when it is first used: with it come PyTorch, MMEngine, mmcv and what reads images."""
    if name not in _IMPORTED_LATER:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(_IMPORTED_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
