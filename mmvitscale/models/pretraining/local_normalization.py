"""A target of masked image modelling without low frequencies."""

from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor

from mmvitscale.errors import InputError
from mmvitscale.registry import MODELS


def local_statistics(image: Tensor, size: int, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) -> mean and deviation (the square root of the unbiased variance plus ``eps``) of each pixel's
    neighbourhood of size x size pixels, per channel; at the border of what there is of it."""

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, size, stride=1, padding=size // 2, count_include_pad=False)

    # Sums of squares lose digits where a channel is far from zero; what is common to the image does not matter.
    common = image.mean((2, 3), keepdim=True)
    image = image - common
    average = mean(image)
    inside = torch.ones_like(image[:1, :1])
    count = F.avg_pool2d(inside, size, stride=1, padding=size // 2) * size**2
    variance = (mean(image**2) - average**2).clamp_min(0) * (count / (count - 1).clamp_min(1))
    return average + common, (variance + eps).sqrt()


def normalize_locally(image: Tensor, size: int) -> Tensor:
    """(B, C, H, W) -> the same: every pixel minus the mean, over the deviation, of its neighbourhood."""
    mean, deviation = local_statistics(image, size)
    return (image - mean) / deviation


@MODELS.register_module()
class LocallyNormalizedTarget(BaseModule):
    """A loss of a reconstruction, with the target normalised over each pixel's neighbourhood (SwinV2's SimMIM, 47 pixels).

    Args:
        size: side of the neighbourhood in pixels, odd.
        loss: config of the loss (prediction, target, mask) -> scalar, mmpretrain's PixelReconstructionLoss for SimMIM.
    """

    def __init__(self, size: int, loss: dict[str, Any]):
        super().__init__()
        if size < 3 or size % 2 == 0:
            raise InputError(
                f'a neighbourhood of {size} pixels found in LocallyNormalizedTarget, but it is odd and at '
                'least 3, 47 in the official code'
            )
        self.size = size
        self.loss = ROOT_MODELS.build(loss)

    def restore(self, prediction: Tensor, image: Tensor) -> Tensor:
        """A prediction of the normalised target -> of the image, with the mean and deviation of the image itself."""
        mean, deviation = local_statistics(image, self.size)
        return prediction * deviation + mean

    def forward(self, prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """prediction, target: (B, C, H, W); mask: (B, 1, H, W), 1 where the loss counts."""
        return self.loss(prediction, normalize_locally(target, self.size), mask)
