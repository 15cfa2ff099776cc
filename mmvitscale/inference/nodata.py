"""Pixels that hold nothing, since they are transparent or without data: found in files, and taken out of predictions."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from mmengine.structures import BaseDataElement, InstanceData

from mmvitscale.errors import InputError
from mmvitscale.inference.images import ImageReader
from mmvitscale.inference.rasters import open_raster, raster_suffixes, transparent_pixels


def empty_pixels(path: Path, size: Sequence[int], reader: ImageReader) -> np.ndarray | None:
    """(H, W) bool of an image that was read whole, (height, width) in size: where it is transparent or, in what rasterio
    reads, without data. None where no pixel is, or the file does not say."""
    found = None
    if path.suffix.lower() not in raster_suffixes():
        found = transparent_pixels(path)
    else:
        with suppress(InputError), open_raster(path, reader) as raster:
            found = raster.empty((0, 0, *raster.size))
    return found if found is not None and found.shape == tuple(size) and found.any() else None


def without_empty(sample: BaseDataElement, empty: np.ndarray | None, classes: int) -> BaseDataElement:
    """The sample whose empty pixels are of no class: label maps are ``classes`` there, masks end there, and instances that
    have no other pixels are gone.

    Args:
        sample: predictions on an image of (H, W) pixels; changed in place.
        empty: (H, W) bool, or None if no pixel is empty.
        classes: how many there are.
    """
    if empty is None or not empty.any():
        return sample
    where = torch.from_numpy(empty)
    if 'pred_sem_seg' in sample:
        sample.pred_sem_seg.data = sample.pred_sem_seg.data.long().masked_fill(where, classes)
    if 'pred_panoptic_seg' in sample:
        sample.pred_panoptic_seg.sem_seg = sample.pred_panoptic_seg.sem_seg.masked_fill(where, classes)
    if 'pred_instances' in sample:
        sample.pred_instances = _instances(sample.pred_instances, ~empty)
    return sample


def _instances(instances: InstanceData, full: np.ndarray) -> InstanceData:
    if 'masks' in instances:
        masks = np.asarray(instances.masks).astype(bool) & full
        instances.masks = masks
        keep = masks.any((1, 2)) if len(masks) else np.zeros(0, bool)
    else:
        # Sums over rectangles: how many pixels with data a box has.
        table = np.pad(full.cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))
        boxes = np.asarray(instances.bboxes, dtype=np.float64).reshape(-1, 4)
        left, right = (f(boxes[:, i]).clip(0, full.shape[1]).astype(int) for f, i in ((np.floor, 0), (np.ceil, 2)))
        top, bottom = (f(boxes[:, i]).clip(0, full.shape[0]).astype(int) for f, i in ((np.floor, 1), (np.ceil, 3)))
        keep = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left] > 0
    return instances[torch.from_numpy(keep)]
