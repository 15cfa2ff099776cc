"""Global self-attention after a backbone in windows."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmvitscale.models.swin_v2.attention import WindowAttention
from mmvitscale.models.swin_v2.backbone import SwinBlockV2, names_without_decay, reset_blocks
from mmvitscale.models.swin_v2.position_bias import POSITION_BIASES
from mmvitscale.models.swin_v2.windows import to_window, window_geometry
from mmvitscale.registry import MODELS
from mmvitscale.utils.renamed_arguments import renamed_arguments


@MODELS.register_module()
class GlobalAttention(BaseModule):
    """Maps (B, C_i, H_i, W_i) -> the same, the last one after one more SwinV2 block whose window is the whole map: the extra
    layer of HTC++ (Swin Transformer, arXiv 2103.14030, appendix A2.2). Put it before the neck, in a list with it.

    The block starts as the identity. Its position bias is the log-spaced one, so that it takes maps of any size.

    Args:
        in_channels: C of the last map.
        num_heads: heads; they divide in_channels.
        pretrained_window: the window that offsets are scaled by: the side of the last map in training, in tokens.
        attention: the kernel, auto, eager, flex, fused or sequential (least memory).
        with_cp: recompute the block in the backward pass instead of storing its activations.
    """

    @renamed_arguments(reference_window='pretrained_window')
    def __init__(
        self,
        in_channels: int,
        num_heads: int,
        pretrained_window: int,
        attention: str = 'auto',
        with_cp: bool = False,
        init_cfg: dict[str, Any] | None = None,
    ):
        super().__init__(init_cfg)
        self.pretrained_window = to_window(pretrained_window)
        self.with_cp = with_cp
        attn = WindowAttention(in_channels, num_heads, POSITION_BIASES['log_cpb'](num_heads, self.pretrained_window), attention)
        self.block = SwinBlockV2(in_channels, attn, mlp_ratio=4, drop_path=0.0, extra_norm=False)
        reset_blocks(self)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        x = inputs[-1].permute(0, 2, 3, 1)
        size = tuple(x.shape[1:3])
        geometry = window_geometry(x.shape[0], size, size, False, x.device)
        if self.with_cp and torch.is_grad_enabled():
            x = checkpoint(self.block, x, geometry, self.pretrained_window, use_reentrant=False)
        else:
            x = self.block(x, geometry, self.pretrained_window)
        return (*inputs[:-1], x.permute(0, 3, 1, 2).contiguous())

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that take no weight decay: position bias, logit scale, norms and biases."""
        return names_without_decay(self)
