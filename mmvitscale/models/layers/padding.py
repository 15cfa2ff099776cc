"""Which pixels and tokens of a batch are images, and which were only filled in to make unequal images one batch.

A data preprocessor of ours marks it in the batch itself: a last channel that is 1 where an image is, and 0 where it was filled
up at its bottom and right. So it goes wherever the batch goes, through every wrapper of a model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmvitscale.errors import InputError

Size = tuple[int, int]  # (height, width)


def with_validity(images: Tensor, sizes: Sequence[Size]) -> Tensor:
    """(B, C, H, W) and the size of each image in pixels -> (B, C + 1, H, W), zero outside the images."""
    inside = rectangles(sizes, images.shape[-2:], images.device)[:, None].to(images.dtype)
    return torch.cat((images * inside, inside), dim=1)


def split_validity(x: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """A batch with or without that channel -> (B, channels, H, W) and (B, H, W), or None."""
    return (x, None) if x.shape[1] != channels + 1 else (x[:, :channels], x[:, channels])


def valid_sizes(validity: Tensor, patch_size: int) -> list[Size] | None:
    """(B, H, W) -> the size of each image in patches, None where all fill the batch. Raises InputError for a channel of
    something else."""
    inside = validity > 0.5
    sizes = torch.stack([inside[:, :, 0].sum(1), inside[:, 0].sum(1)], 1).tolist()
    if not torch.equal(rectangles(sizes, validity.shape[1:], validity.device).to(validity.dtype), validity):
        raise InputError(
            'a batch with one channel more than the backbone has in_channels found, and it does not mark where '
            'images are padded; set in_channels to the number of channels of the images'
        )
    tokens = [(-(-height // patch_size), -(-width // patch_size)) for height, width in sizes]
    full = tuple(-(-side // patch_size) for side in validity.shape[1:])
    return None if all(size == full for size in tokens) else tokens


def valid_tokens(sizes: Sequence[Size], size: Size, device: torch.device) -> Tensor:
    """The sizes of images in patches, and of the map -> (B, 1 + H W) bool, the class token first."""
    inside = rectangles(sizes, size, device).flatten(1)
    return torch.cat((inside.new_ones(len(inside), 1), inside), dim=1)


def rectangles(sizes: Sequence[Size], size: Size, device: torch.device) -> Tensor:
    """(B, H, W) bool: from the top left to each size."""
    ends = torch.as_tensor(sizes, device=device).view(-1, 2, 1)
    rows, columns = (torch.arange(side, device=device) < ends[:, i] for i, side in enumerate(size))
    return rows[:, :, None] & columns[:, None]
