"""Decode heads of mmsegmentation of which the loss alone is ours: the same arguments, parameters and results."""

from mmseg.models.decode_heads import FCNHead as PlainFCNHead
from mmseg.models.decode_heads import FPNHead as PlainFPNHead

from mmvitscale.models.decode_heads.resized_loss import ResizedLoss


class FCNHead(ResizedLoss, PlainFCNHead):
    """Convolutions of one map or several (Long et al. 2015, arXiv 1411.4038): auxiliary heads, mostly."""


class FPNHead(ResizedLoss, PlainFPNHead):
    """Semantic FPN (Kirillov et al. 2019, arXiv 1901.02446)."""
