"""Backbones for masked image modelling: what mmpretrain's SimMIM needs of them (SimMIM, arXiv 2111.09886; SwinV2, section
3.3 and appendix). Its runner, neck, head and mask generator are mmpretrain's own."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmvitscale.errors import InputError
from mmvitscale.models.base_backbone import BaseBackbone
from mmvitscale.models.deepvit import DeepViT
from mmvitscale.models.layers.initialisation import truncated_normal_
from mmvitscale.models.swin_v2 import SwinTransformerV2
from mmvitscale.registry import MODELS

if TYPE_CHECKING:
    _Base = BaseBackbone
else:
    _Base = object


class _Masked(_Base):
    """Before a backbone among the bases: ``forward(x, mask)`` puts a learned token in the place of masked patches."""

    # The backbone's behind this mix-in.
    arch: dict[str, Any]
    patch_embed: nn.Module
    forward_tokens: Callable[..., tuple[Tensor, ...]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.arch['embed_dims']))
        truncated_normal_(self.mask_token)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """x: (B, in_channels, H, W). mask: (B, rows, columns), one for each patch of the patch embedding, 1 or True where it
        is masked; None masks nothing. Raises InputError for a mask of another size."""
        tokens = self.patch_embed(x)
        if mask is None:
            # Nothing is masked, but every parameter has a part in the output, as DDP wants it.
            return self.forward_tokens(tokens + 0 * self.mask_token)
        if mask.shape != tokens.shape[:3]:
            raise InputError(
                f'a mask of {tuple(mask.shape[1:])} patches found for an image of {tuple(x.shape[2:])} pixels, '
                f'which has {tuple(tokens.shape[1:3])}; make input_size and model_patch_size of the '
                "mask generator those of the image and the backbone's patches"
            )
        mask = mask[..., None].to(tokens.dtype)
        return self.forward_tokens(tokens * (1 - mask) + self.mask_token * mask)

    def no_weight_decay(self) -> set[str]:
        return {*super().no_weight_decay(), 'mask_token'}

    def get_layer_depth(self, name: str, prefix: str = '') -> tuple[int, int]:
        if name == f'{prefix}mask_token':
            return 0, super().get_layer_depth(name, prefix)[1]
        return super().get_layer_depth(name, prefix)

    def allows_missing(self, key: str) -> bool:
        """A classifier has no mask token."""
        return key == 'mask_token' or super().allows_missing(key)


@MODELS.register_module()
class MaskedSwinTransformerV2(_Masked, SwinTransformerV2):
    """SwinTransformerV2 with a token for masked patches, of 4 x 4 pixels. Arguments as SwinTransformerV2's."""


@MODELS.register_module()
class MaskedDeepViT(_Masked, DeepViT):
    """DeepViT, or a plain ViT, with a token for masked patches, of 16 x 16 pixels. Arguments as DeepViT's."""
