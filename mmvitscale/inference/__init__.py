"""From a trained checkpoint to predictions, and from predictions to pictures and data."""

import warnings
from typing import Any

from mmvitscale.inference.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES, ImageReader, list_images
from mmvitscale.inference.output import write_picture
from mmvitscale.inference.predictor import (
    Predictor,
    Reconstructor,
    build_model,
    build_predictor,
    load_model,
    pipeline_of,
)
from mmvitscale.inference.visualizer import Visualizer

__all__ = [
    'IMAGE_SUFFIXES',
    'VIDEO_SUFFIXES',
    'ImageReader',
    'Visualizer',
    'Predictor',
    'Reconstructor',
    'build_model',
    'list_images',
    'load_model',
    'pipeline_of',
    'build_predictor',
    'write_picture',
]

_RENAMED = {'Painter': 'Visualizer', 'predictor_of': 'build_predictor'}


def __getattr__(name: str) -> Any:
    if name not in _RENAMED:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    warnings.warn(
        f'{name} is called {_RENAMED[name]} now; the old name goes with the next release', FutureWarning, stacklevel=2
    )
    return globals()[_RENAMED[name]]
