"""Decode heads of mmsegmentation, faster. They are imported when one is built, for only they need mmsegmentation."""

from typing import Any

from torch import nn

from mmvitscale.registry import MODELS


@MODELS.register_module(name='UPerHead')
def uper_head(**options: Any) -> nn.Module:
    """``uper_head.UPerHead``: mmsegmentation's UPerHead, with the same arguments, parameters and results."""
    from mmvitscale.models.decode_heads.uper_head import UPerHead

    return UPerHead(**options)
