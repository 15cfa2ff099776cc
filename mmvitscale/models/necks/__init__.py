"""From a backbone's maps to what heads take."""

from .global_attention import GlobalAttention
from .simple_pyramid import SimplePyramid

__all__ = ['GlobalAttention', 'SimplePyramid']
