"""Registries of scope ``mmvitscale``: children of MMEngine's roots.

MMEngine imports this module when it meets ``type='mmvitscale.<Type>'`` and then each registry's ``locations``, so a
config needs no ``custom_imports``, whatever its default scope.
"""

from collections.abc import Mapping
from typing import Any

from mmengine import registry as root

MODELS = root.Registry(
    'model',
    scope='mmvitscale',
    parent=root.MODELS,
    locations=[
        'mmvitscale.models.swin_v2',
        'mmvitscale.models.deepvit',
        'mmvitscale.models.necks',
        'mmvitscale.models.decode_heads',
        'mmvitscale.models.pretraining',
        'mmvitscale.models.data_preprocessors',
        'mmvitscale.models.tta',
    ],
)
RUNNERS = root.Registry(
    'runner',
    scope='mmvitscale',
    parent=root.RUNNERS,
    build_func=root.build_runner_from_cfg,
    locations=['mmvitscale.engine.runner'],
)
TRANSFORMS = root.Registry(
    'transform', scope='mmvitscale', parent=root.TRANSFORMS, locations=['mmvitscale.datasets.multispectral']
)
HOOKS = root.Registry('hook', scope='mmvitscale', parent=root.HOOKS, locations=['mmvitscale.engine.hooks'])
VISBACKENDS = root.Registry(
    'vis_backend', scope='mmvitscale', parent=root.VISBACKENDS, locations=['mmvitscale.engine.tracking']
)
OPTIM_WRAPPERS = root.Registry(
    'optim_wrapper', scope='mmvitscale', parent=root.OPTIM_WRAPPERS, locations=['mmvitscale.engine.optim']
)
OPTIM_WRAPPER_CONSTRUCTORS = root.Registry(
    'optimizer wrapper constructor',
    scope='mmvitscale',
    parent=root.OPTIM_WRAPPER_CONSTRUCTORS,
    locations=['mmvitscale.engine.optim'],
)
OPTIMIZERS = root.Registry('optimizer', scope='mmvitscale', parent=root.OPTIMIZERS, locations=['mmvitscale.engine.optim'])
STRATEGIES = root.Registry('strategy', scope='mmvitscale', parent=root.STRATEGIES, locations=['mmvitscale.engine.strategies'])
WEIGHT_INITIALIZERS = root.Registry(
    'weight initializer', scope='mmvitscale', parent=root.WEIGHT_INITIALIZERS, locations=['mmvitscale.checkpoints.pretrained']
)


def type_name(cfg: Mapping[str, Any]) -> str:
    """The name of the type in a part of a config, without its scope: configs in pure Python have the class itself there. ''
    where there is none."""
    kind = cfg.get('type') or ''
    return (kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind))).split('.')[-1]
