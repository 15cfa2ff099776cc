"""From a backbone's maps to what heads take."""

from mmvitscale.models.necks.global_attention import GlobalAttention
from mmvitscale.models.necks.simple_pyramid import SimplePyramid

__all__ = ['GlobalAttention', 'SimplePyramid']
