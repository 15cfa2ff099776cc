"""SwinTransformerV2 (Liu et al. 2022, Swin Transformer V2, arXiv 2111.09883).

To read in this order: ``windows`` (how a map is cut, shifted windows), ``position_bias`` (log-spaced continuous position bias),
``attention`` (scaled cosine attention, the module and the eager formula), ``backbone`` (blocks, stages, the network). Beside
them ``kernels`` and ``flex_attention`` (the formula fast, or in little memory), ``variants`` (tiny to giant),
``checkpoint_formats`` (other libraries' names) and ``checkpoint_policy`` (what happens when weights are loaded).
"""

from mmvitscale.models.swin_v2.backbone import SwinTransformerV2

__all__ = ['SwinTransformerV2']
