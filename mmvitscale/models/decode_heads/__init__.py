"""Decode heads of mmsegmentation, faster: the same arguments, parameters and results. They are imported when one is built, for
only they need mmsegmentation."""

from typing import Any

from torch import nn

from mmvitscale.registry import MODELS


@MODELS.register_module(name='UPerHead')
def uper_head(**options: Any) -> nn.Module:
    """``uper_head.UPerHead``."""
    from mmvitscale.models.decode_heads.uper_head import UPerHead

    return UPerHead(**options)


@MODELS.register_module(name='FCNHead')
def fcn_head(**options: Any) -> nn.Module:
    """``simple_heads.FCNHead``."""
    from mmvitscale.models.decode_heads.simple_heads import FCNHead

    return FCNHead(**options)


@MODELS.register_module(name='FPNHead')
def fpn_head(**options: Any) -> nn.Module:
    """``simple_heads.FPNHead``."""
    from mmvitscale.models.decode_heads.simple_heads import FPNHead

    return FPNHead(**options)
