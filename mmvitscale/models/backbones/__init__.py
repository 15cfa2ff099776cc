"""SwinTransformerV2 and DeepViT."""

from .deepvit import DeepViT
from .swin_v2 import SwinTransformerV2

__all__ = ['DeepViT', 'SwinTransformerV2']
