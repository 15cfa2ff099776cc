"""From the single stride of a plain ViT to the pyramid that heads expect."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmvitscale.errors import InputError
from mmvitscale.registry import MODELS


class ChannelNorm(nn.LayerNorm):
    """(B, C, H, W) -> the same: LayerNorm over the channels of each position."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@MODELS.register_module()
class SimplePyramid(BaseModule):
    """Maps of stride 16, (B, C, H, W) each -> maps of ``out_channels`` with strides 4, 8, 16 and 32, and 64 if asked
    for (ViTDet, arXiv 2203.16527, section 3). Of several inputs the first becomes stride 4, the last stride 32 (as in
    BEiT, arXiv 2106.08254); one input becomes all.

    A map of stride 32 or 64 has ceil(H / 2) or ceil(H / 4) rows, as SwinV2's have.

    Args:
        in_channels: C, one number, or one for each input.
        out_channels: of every output.
        num_outs: 4, or 5 with a map of stride 64, taken from that of stride 32.
        in_index: which of the backbone's outputs are used, None for all; one or four.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        out_channels: int = 256,
        num_outs: int = 4,
        in_index: Sequence[int] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ):
        super().__init__(init_cfg)
        if num_outs not in (4, 5):
            raise InputError(f'num_outs {num_outs} found, but SimplePyramid makes 4 maps, or 5 with stride 64')
        channels = [in_channels] if isinstance(in_channels, int) else list(in_channels)
        self.in_index = None if in_index is None else list(in_index)
        if len(channels) not in (1, 4):
            raise InputError(
                f'in_channels {channels} found, but SimplePyramid takes 1 or 4 maps; choose that many '
                'out_indices of the backbone'
            )
        self.num_inputs = len(channels)
        self.num_outs = num_outs
        c = channels * 4 if len(channels) == 1 else channels
        self.scales = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(c[0], c[0] // 2, 2, stride=2),
                    ChannelNorm(c[0] // 2),
                    nn.GELU(),
                    nn.ConvTranspose2d(c[0] // 2, c[0] // 4, 2, stride=2),
                ),
                nn.ConvTranspose2d(c[1], c[1] // 2, 2, stride=2),
                nn.Identity(),
                nn.MaxPool2d(2, stride=2, ceil_mode=True),
            ]
        )
        widths = [c[0] // 4, c[1] // 2, c[2], c[3]]
        self.outs = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(width, out_channels, 1, bias=False),
                    ChannelNorm(out_channels),
                    nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                    ChannelNorm(out_channels),
                )
                for width in widths
            ]
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        inputs = list(inputs) if self.in_index is None else [inputs[i] for i in self.in_index]
        if len(inputs) != self.num_inputs:
            raise InputError(
                f'SimplePyramid got {len(inputs)} maps, but in_channels promises {self.num_inputs}; match '
                'them with the out_indices of the backbone'
            )
        inputs = inputs * 4 if self.num_inputs == 1 else inputs
        maps: list[Tensor] = [out(scale(x)) for x, scale, out in zip(inputs, self.scales, self.outs)]
        if self.num_outs == 5:
            maps.append(F.max_pool2d(maps[-1], 1, stride=2))
        return tuple(maps)
