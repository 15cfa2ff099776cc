"""The loss of decode heads without the logits resized to the size of the labels."""

from typing import Any

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses.cross_entropy_loss import CrossEntropyLoss, cross_entropy
from torch import Tensor, nn

from mmvitscale.models.layers.resized_cross_entropy import cross_entropy_of_resized

# mmsegmentation adds it to numbers of pixels, which may be 0.
_EPSILON = torch.finfo(torch.float32).eps


class ResizedLoss(BaseDecodeHead):
    """To stand before a decode head of mmsegmentation among the bases of a class: the same losses and accuracy, the
    cross-entropy by ``cross_entropy_of_resized``. With other losses, or a sampler of pixels, the head's own."""

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: list[Any]) -> dict[str, Tensor]:
        """seg_logits (B, C, h, w) and the samples with labels (1, H, W) -> the losses by name, and ``acc_seg``, percent."""
        losses = list(self.loss_decode) if isinstance(self.loss_decode, nn.ModuleList) else [self.loss_decode]
        if self.sampler is not None or seg_logits.shape[1] < 2 or not all(map(_is_cross_entropy, losses)):
            return super().loss_by_feat(seg_logits, batch_data_samples)
        label = self._stack_batch_gt(batch_data_samples).squeeze(1)
        valid = label != self.ignore_index
        found: dict[str, Tensor] = {}
        for loss in losses:
            class_weight = seg_logits.new_tensor(loss.class_weight) if loss.class_weight is not None else None
            sums = cross_entropy_of_resized(seg_logits, label, self.align_corners, self.ignore_index, class_weight)
            value = loss.loss_weight * sums.loss
            if loss.reduction == 'mean':
                value = value / (_pixels_of_mean(loss, label, valid, class_weight) + _EPSILON)
            found[loss.loss_name] = found[loss.loss_name] + value if loss.loss_name in found else value
        found['acc_seg'] = (100 * (sums.correct + _EPSILON) / (valid.sum() + _EPSILON)).reshape(1)
        return found


def _is_cross_entropy(loss: nn.Module) -> bool:
    return type(loss) is CrossEntropyLoss and loss.cls_criterion is cross_entropy and loss.reduction in ('mean', 'sum')


def _pixels_of_mean(loss: CrossEntropyLoss, label: Tensor, valid: Tensor, class_weight: Tensor | None) -> Tensor | int:
    """What a mean divides by: all pixels, those that are not ignored (avg_non_ignore), or their class weights."""
    if class_weight is not None:
        return class_weight[label[valid]].sum()
    return valid.sum() if loss.avg_non_ignore else label.numel()
