"""Patch embeddings, and the patch merging between stages."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from mmvitscale.models.layers.attachments import is_plain
from mmvitscale.models.layers.padding import rectangles


def pad_to_patches(x: Tensor, patch_size: int) -> Tensor:
    """(B, C, H, W) -> the same with zeros at the end of each side up to whole patches."""
    bottom, right = -x.shape[-2] % patch_size, -x.shape[-1] % patch_size
    return F.pad(x, (0, right, 0, bottom)) if bottom or right else x


def embed_patches(x: Tensor, proj: nn.Module, patch: int) -> Tensor:
    """(B, C, H, W) -> (B, ceil(H / P), ceil(W / P), D): the convolution with kernel and stride P as what it is, a linear
    map of patches. Where something is attached to ``proj`` it is called."""
    # On a CPU with AMX the bfloat16 convolution of PyTorch 2.13.0 (oneDNN 3.12.0) gives wrong numbers where its output is
    # one column wide: F.conv2d of a (1, 3, 64, 4) image with a (96, 3, 4, 4) kernel and stride 4 is off by 4 from float32
    # where 0.02 is rounding. Once that is mended, proj(x) does.
    x = pad_to_patches(x, patch)
    if not is_plain(proj, nn.Conv2d):
        narrow = x.shape[3] == patch and x.device.type == 'cpu'
        out = proj(F.pad(x, (0, patch)) if narrow else x)
        return (out[..., :1] if narrow else out).permute(0, 2, 3, 1)
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // patch, patch, width // patch, patch).permute(0, 2, 4, 1, 3, 5)
    return F.linear(x.flatten(3), proj.weight.flatten(1), proj.bias)


class PatchEmbed(nn.Module):
    """(B, in_channels, H, W) -> (B, ceil(H / P), ceil(W / P), C): P x P patches, linear, then LayerNorm.

    The image's end is filled with zeros to whole patches.
    """

    def __init__(self, in_channels: int, dim: int, patch_size: int = 4):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, dim, patch_size, patch_size)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(embed_patches(x, self.proj, self.patch_size))


class LinearStem(nn.Module):
    """(B, in_channels, H, W) -> (B, ceil(H / P), ceil(W / P), C): P x P patches, linear (ViT)."""

    def __init__(self, in_channels: int, dim: int, patch_size: int = 16):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, dim, patch_size, patch_size)

    def forward(self, x: Tensor, sizes: Sequence[tuple[int, int]] | None = None) -> Tensor:
        """sizes: of the images in patches, where they do not fill the batch; a patch sees its own pixels alone."""
        return embed_patches(x, self.proj, self.patch_size)


class ConvStem(nn.Module):
    """(B, in_channels, H, W) -> (B, ceil(H / P), ceil(W / P), C): two convolutions at half the resolution, then
    patches of P / 2 (the CNN stem of DeepViT's official code)."""

    def __init__(self, in_channels: int, dim: int, patch_size: int = 16):
        super().__init__()
        self.patch_size = patch_size
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.proj = nn.Conv2d(64, dim, patch_size // 2, patch_size // 2)

    def forward(self, x: Tensor, sizes: Sequence[tuple[int, int]] | None = None) -> Tensor:
        """sizes: of the images in patches, where they do not fill the batch."""
        x = F.relu(self.bn1(self.conv1(pad_to_patches(x, self.patch_size))))
        if sizes is not None:  # the second convolution sees zeros beyond an image, as at the border of the batch
            x = (
                x
                * rectangles([(h * self.patch_size // 2, w * self.patch_size // 2) for h, w in sizes], x.shape[-2:], x.device)[
                    :, None
                ]
            )
        x = F.relu(self.bn2(self.conv2(x)))
        return embed_patches(x, self.proj, self.patch_size // 2)


class PatchMerging(nn.Module):
    """(B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 2 C): 2 x 2 tokens, linear, then LayerNorm (post-norm in V2); with
    ``pre_norm`` LayerNorm, then linear (V1).

    An odd side is filled with one row or column of zeros at its end.
    """

    def __init__(self, dim: int, pre_norm: bool = False):
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.pre_norm = pre_norm
        self.norm = nn.LayerNorm(4 * dim if pre_norm else 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        bottom, right = x.shape[1] % 2, x.shape[2] % 2
        if bottom or right:
            x = F.pad(x, (0, 0, 0, right, 0, bottom))
        batch, height, width, dim = x.shape
        x = x.view(batch, height // 2, 2, width // 2, 2, dim)
        # Column before row, the order of the published weights.
        x = x.permute(0, 1, 3, 4, 2, 5).reshape(batch, height // 2, width // 2, 4 * dim)
        return self.reduction(self.norm(x)) if self.pre_norm else self.norm(self.reduction(x))
