"""Attention inside windows of a plain ViT, for detection at high resolution (ViTDet, arXiv 2203.16527, section 3)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvitscale.models.swin_v2.windows import WindowGeometry, window_partition, window_reverse


def attend_in_windows(attn: nn.Module, x: Tensor, geometry: WindowGeometry, token_mask: Tensor | None = None) -> Tensor:
    """(B, 1 + H W, C), the class token first -> the same: ``attn``, which maps (B, N, C) to (B, N, C), inside each window of
    the map (ViTDet, arXiv 2203.16527, section 3).

    The class token is in every window, so that a window of 14 x 14 has the 197 tokens of an image of 224 x 224; what it
    becomes is the mean over the windows. Windows of one shape go through ``attn`` together. token_mask: (B, 1 + H W), True for
    tokens, False for padding; windows of padding alone do not count for the class token.
    """
    batch, _, channels = x.shape
    token = x[:, None, :1]
    sizes = [group.tokens for group in geometry.groups]
    parts = [
        part.view(batch, group.count // max(batch, 1), group.slots, channels)
        for part, group in zip(window_partition(x[:, 1:], geometry).split(sizes), geometry.groups)
    ]
    parts = [torch.cat((token.expand(-1, part.shape[1], -1, -1), part), dim=2) for part in parts]
    masks: list[Tensor | None] = [None] * len(parts)
    if token_mask is not None:
        inside = window_partition(token_mask[:, 1:, None], geometry).split(sizes)
        masks = [F.pad(own.view(*part.shape[:2], -1), (1, 0), value=True) for own, part in zip(inside, parts)]
    # In training one batch, however many shapes: it has one set of statistics, over all processes and their images.
    outs = (
        _at_once(attn, parts, masks)
        if attn.training and len(parts) > 1
        else [
            attn(part.flatten(0, 1), *(() if own is None else (own.flatten(0, 1),))).view(part.shape)
            for part, own in zip(parts, masks)
        ]
    )
    inhabited = [
        out.new_ones(out.shape[:2], dtype=torch.bool) if own is None else own[:, :, 1:].any(2) for out, own in zip(outs, masks)
    ]
    windows: Any = sum(some.sum(1) for some in inhabited)
    empty = windows == 0  # an image of padding alone, whose class token attends to itself
    windows = torch.where(empty, sum(some.shape[1] for some in inhabited), windows)[:, None, None]
    token_sum: Any = 0
    for out, some in zip(outs, inhabited):
        # Not in 16 bits: of a thousand windows the sum would overflow.
        kept = torch.where((some | empty[:, None])[..., None], out[:, :, 0], 0)
        token_sum = token_sum + kept.sum(1, keepdim=True, dtype=torch.promote_types(out.dtype, torch.float32))
    merged = torch.cat([out[:, :, 1:].reshape(-1, channels) for out in outs])
    merged = window_reverse(merged, geometry, (x.shape[1] - 1, 1)).flatten(1, 2)
    return torch.cat(((token_sum / windows).to(merged.dtype), merged), dim=1)


def _at_once(attn: nn.Module, parts: Sequence[Tensor], masks: Sequence[Tensor | None]) -> list[Tensor]:
    """Windows of several shapes, (B, windows, N, C) each, filled up to the largest for one call."""
    most = max(part.shape[2] for part in parts)
    filled = torch.cat([F.pad(part, (0, 0, 0, most - part.shape[2])) for part in parts], dim=1)
    inside = [part.new_ones(part.shape[:3], dtype=torch.bool) if own is None else own for part, own in zip(parts, masks)]
    token_mask = torch.cat([F.pad(own, (0, most - own.shape[2])) for own in inside], dim=1)
    out = attn(filled.flatten(0, 1), token_mask.flatten(0, 1)).view(filled.shape)
    return [own[:, :, : part.shape[2]] for own, part in zip(out.split([part.shape[1] for part in parts], dim=1), parts)]
