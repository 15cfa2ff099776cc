"""The networks: ``from mmvitscale.models import SwinTransformerV2, DeepViT``."""

from mmvitscale.models.deepvit import DeepViT
from mmvitscale.models.necks import SimplePyramid
from mmvitscale.models.swin_v2 import SwinTransformerV2

__all__ = ['DeepViT', 'SimplePyramid', 'SwinTransformerV2']
