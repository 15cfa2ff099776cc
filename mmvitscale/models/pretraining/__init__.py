"""Masked image modelling with mmpretrain."""

from mmvitscale.models.pretraining.local_normalization import LocallyNormalizedTarget
from mmvitscale.models.pretraining.masked import MaskedDeepViT, MaskedSwinTransformerV2

__all__ = ['LocallyNormalizedTarget', 'MaskedDeepViT', 'MaskedSwinTransformerV2']
