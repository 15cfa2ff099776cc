"""The networks: ``from mmvitscale.models import SwinTransformerV2, DeepViT``."""

from .backbones import DeepViT, SwinTransformerV2
from .necks import SimplePyramid

__all__ = ['DeepViT', 'SimplePyramid', 'SwinTransformerV2']
