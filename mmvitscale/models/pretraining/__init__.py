"""Masked image modelling with mmpretrain."""

from .local_normalization import LocallyNormalizedTarget
from .masked import MaskedDeepViT, MaskedSwinTransformerV2

__all__ = ['LocallyNormalizedTarget', 'MaskedDeepViT', 'MaskedSwinTransformerV2']
