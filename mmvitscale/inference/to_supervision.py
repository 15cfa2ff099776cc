"""Predictions as ``supervision.Detections``, which draw, count, track and filter (https://supervision.roboflow.com)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.structures import BaseDataElement

from mmvitscale.datasets.coco_masks import coco_api
from mmvitscale.errors import InputError


def to_supervision(sample: BaseDataElement, classes: Sequence[str], score_thr: float = 0.0) -> Any:
    """A data sample with predicted instances or a label map -> ``supervision.Detections`` with the names in
    ``data['class_name']``; of a label map one for each class, without confidence.

    Args:
        sample: of mmdetection or mmsegmentation.
        classes: names in the order of the labels.
        score_thr: instances below it are left out.

    Raises:
        InputError: where supervision is not installed, or the sample has neither instances nor a label map.
    """
    try:
        import supervision
    except ImportError as error:
        raise InputError('supervision is not installed; install it: pip install supervision') from error
    names = np.array(classes)
    if 'pred_instances' in sample:
        found = sample.pred_instances.cpu().numpy()
        kept = np.asarray(found.scores) >= score_thr
        labels = np.asarray(found.labels)[kept].astype(int)
        masks = found.get('masks')
        return supervision.Detections(
            xyxy=np.asarray(found.bboxes, np.float32).reshape(-1, 4)[kept],
            mask=None if masks is None else _masks(masks, kept, sample.ori_shape),
            confidence=np.asarray(found.scores)[kept],
            class_id=labels,
            data={'class_name': names[labels]},
        )
    if 'pred_sem_seg' not in sample:
        raise InputError('the prediction has neither instances nor a label map, so there is nothing for supervision')
    label_map = sample.pred_sem_seg.data.squeeze(0).cpu().numpy()
    labels = np.array([label for label in np.unique(label_map) if label < len(names)], int)
    masks = label_map[None] == labels[:, None, None]
    return supervision.Detections(
        xyxy=supervision.mask_to_xyxy(masks).astype(np.float32).reshape(-1, 4),
        mask=masks,
        class_id=labels,
        data={'class_name': names[labels]},
    )


def _masks(masks: Any, kept: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """(n, H, W) bool of masks as arrays or run lengths."""
    chosen = [
        coco_api().decode(mask) if isinstance(mask, dict) else np.asarray(mask) for mask, keep in zip(masks, kept) if keep
    ]
    return np.array(chosen, bool).reshape(-1, *size[:2])
