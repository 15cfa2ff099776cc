import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from mmvitscale.inference import ImageReader
from mmvitscale.inference.nodata import empty_pixels, without_empty

pytestmark = pytest.mark.unit

READER = ImageReader([dict(type='LoadImageFromFile')])
EMPTY = np.zeros((8, 10), bool)
EMPTY[:, :4] = True


def test_transparent_pixels_of_images_are_empty(tmp_path):
    image = np.full((8, 10, 4), 255, np.uint8)
    image[..., 3] = np.where(EMPTY, 0, 7)
    for suffix in ('png', 'webp', 'tif'):
        cv2.imwrite(str(tmp_path / f'a.{suffix}'), image, [cv2.IMWRITE_WEBP_QUALITY, 101])
        assert np.array_equal(empty_pixels(tmp_path / f'a.{suffix}', (8, 10), READER), EMPTY)
    cv2.imwrite(str(tmp_path / 'a.png'), image[..., :3])
    assert empty_pixels(tmp_path / 'a.png', (8, 10), READER) is None
    (tmp_path / 'a.png').write_bytes(b'no image')
    assert empty_pixels(tmp_path / 'a.png', (8, 10), READER) is None
    assert empty_pixels(tmp_path / 'a.npy', (8, 10), READER) is None


def test_predictions_end_where_the_image_does():
    sample = BaseDataElement()
    sample.set_field(PixelData(data=torch.zeros(1, 8, 10, dtype=torch.uint8)), 'pred_sem_seg', dtype=PixelData)
    labels = without_empty(sample, EMPTY, 300).pred_sem_seg.data
    assert ((labels == 300) == torch.from_numpy(EMPTY)).all() and labels.sum() == 300 * EMPTY.sum()
    ids = PixelData(sem_seg=torch.full((1, 8, 10), 1002))
    sample = BaseDataElement()
    sample.set_field(ids, 'pred_panoptic_seg', dtype=PixelData)
    assert without_empty(sample, EMPTY, 5).pred_panoptic_seg.sem_seg.unique().tolist() == [5, 1002]
    masks = np.zeros((3, 8, 10), bool)
    masks[0, :, :4] = masks[1, :, 2:6] = masks[2, :, 5:] = True
    boxes = torch.tensor([[0.0, 0, 4, 8], [2, 0, 6, 8], [5, 0, 10, 8]])
    for more in ({}, dict(masks=masks)):
        sample = BaseDataElement()
        found = InstanceData(bboxes=boxes, labels=torch.arange(3), scores=torch.ones(3), **more)
        sample.set_field(found, 'pred_instances', dtype=InstanceData)
        found = without_empty(sample, EMPTY, 5).pred_instances
        assert found.labels.tolist() == [1, 2]
        if more:
            assert found.masks[0].sum() == 16
    none = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0), masks=np.zeros((0, 8, 10), bool))
    sample.set_field(none, 'pred_instances', dtype=InstanceData)
    assert len(without_empty(sample, EMPTY, 5).pred_instances) == 0
