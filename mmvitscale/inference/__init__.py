"""From a trained checkpoint to predictions, and from predictions to pictures and data."""

from .files import write_picture
from .images import IMAGE_SUFFIXES, VIDEO_SUFFIXES, ImageReader, list_images
from .painter import Painter
from .predictor import Predictor, Reconstructor, build_model, is_masked_modelling, load_model, pipeline_of, predictor_of

__all__ = [
    'IMAGE_SUFFIXES',
    'VIDEO_SUFFIXES',
    'ImageReader',
    'Painter',
    'Predictor',
    'Reconstructor',
    'build_model',
    'is_masked_modelling',
    'list_images',
    'load_model',
    'pipeline_of',
    'predictor_of',
    'write_picture',
]
