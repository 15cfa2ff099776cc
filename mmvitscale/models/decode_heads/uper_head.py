"""UPerNet's decode head (Xiao et al. 2018, arXiv 1807.10221), with convolutions of resized maps done before resizing."""

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads import UPerHead as PlainUPerHead
from mmseg.models.utils import resize
from torch import Tensor, nn

from mmvitscale.models.decode_heads.resized_loss import ResizedLoss
from mmvitscale.models.layers.multi_resolution_conv import MultiResolutionConv2d, resized_and_concatenated


class UPerHead(ResizedLoss, PlainUPerHead):
    """mmsegmentation's UPerHead: the same arguments, parameters (checkpoints pass both ways, and a seed gives the same weights)
    and results up to rounding, with 53% of the multiply-adds for four maps of strides 4 to 32 and 512 channels.

    Its two 3x3 convolutions of concatenated maps multiply each map at its own resolution (``MultiResolutionConv2d``):
    ``bottleneck`` of the last map and its pooled forms, ``fpn_bottleneck`` of all levels, 155 of 238 G multiply-adds of UPerNet
    with SwinV2-T at 512 x 512. Convolutions of another type (``conv_cfg``) remain as they are.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        for module in (self.bottleneck, self.fpn_bottleneck):
            if type(module.conv) is nn.Conv2d:
                module.conv = MultiResolutionConv2d(module.conv, self.align_corners)

    def psp_forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """All levels' maps -> (B, channels, h, w) of the last one: the pyramid pooling module."""
        last = inputs[-1]
        return self._fuse(self.bottleneck, [last, *(pool(last) for pool in self.psp_modules)])

    def _forward_feature(self, inputs: Sequence[Tensor]) -> Tensor:
        """All levels' maps -> (B, channels, H, W) of the first one, before the classifier."""
        # Convolutions of CPUs and of tensor cores want the channels beside each other.
        inputs = [x.contiguous(memory_format=torch.channels_last) for x in self._transform_inputs(inputs)]
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, inputs)] + [self.psp_forward(inputs)]
        for i in range(len(laterals) - 1, 0, -1):
            size = laterals[i - 1].shape[2:]
            laterals[i - 1] = laterals[i - 1] + resize(
                laterals[i], size=size, mode='bilinear', align_corners=self.align_corners
            )
        levels = [conv(x) for conv, x in zip(self.fpn_convs, laterals)] + laterals[-1:]
        return self._fuse(self.fpn_bottleneck, levels)

    def _fuse(self, module: ConvModule, maps: Sequence[Tensor]) -> Tensor:
        """What the module gives for the maps in the size of the first, concatenated."""
        if isinstance(module.conv, MultiResolutionConv2d):
            return module(maps)
        return module(resized_and_concatenated(maps, self.align_corners))
