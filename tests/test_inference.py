import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from mmvitscale.errors import InputError
from mmvitscale.inference import Painter, list_images, read_image

META = dict(classes=('sky', 'road'), palette=[[10, 20, 200], [200, 100, 0]])
GREY = np.full((40, 60, 3), 100, np.uint8)


def semantic(**maps):
    sample = BaseDataElement()
    for name, labels in maps.items():
        sample.set_field(PixelData(data=torch.as_tensor(labels)[None]), f'{name}_sem_seg', dtype=PixelData)
    return sample


def test_a_semantic_map_is_blended_in_its_palette_and_255_left_alone():
    labels = torch.zeros(40, 60, dtype=torch.long)
    labels[:, 30:] = 1
    labels[:10] = 255
    picture = Painter(META).paint(GREY, semantic(pred=labels))
    assert picture.shape[0] > 40 and picture.shape[1] == 60
    assert picture[5, 5].tolist() == [100, 100, 100]
    assert picture[20, 5].tolist() == [160, 52, 46]  # 0.4 * 100 + 0.6 * BGR (200, 20, 10)
    assert picture[20, 50].tolist() == [40, 100, 160]


def test_truth_and_prediction_stand_side_by_side():
    labels = torch.zeros(40, 60, dtype=torch.long)
    picture = Painter(META).compare(GREY, semantic(gt=labels, pred=labels + 1))
    assert picture.shape[1] == 180
    assert picture[20, 5].tolist() == [100, 100, 100]
    assert picture[20, 65].tolist() == [160, 52, 46] and picture[20, 125].tolist() == [40, 100, 160]


def test_instances_above_the_score_are_drawn():
    masks = np.zeros((2, 40, 60), bool)
    masks[0, 5:15, 5:15] = masks[1, 5:15, 40:50] = True
    instances = InstanceData(bboxes=torch.tensor([[5., 5, 15, 15], [40, 5, 50, 15]]), labels=torch.tensor([0, 1]),
                             scores=torch.tensor([0.9, 0.1]), masks=masks)
    sample = BaseDataElement()
    sample.set_field(instances, 'pred_instances', dtype=InstanceData)
    picture = Painter(META, score_thr=0.5).paint(GREY, sample)
    assert picture[13, 9].tolist() == [150, 60, 55]
    assert picture[13, 45].tolist() == [100, 100, 100]


def test_classes_without_a_palette_get_distinct_colours():
    painter = Painter(dict(classes=[str(i) for i in range(20)]))
    assert len(set(painter.palette)) == 20


def test_images_are_8_bit_colour(tmp_path):
    cv2.imwrite(str(tmp_path / 'deep.png'), np.zeros((4, 4, 3), np.uint16))
    with pytest.raises(InputError, match='3 channels of uint16'):
        read_image(tmp_path / 'deep.png')
    cv2.imwrite(str(tmp_path / 'ok.png'), GREY)
    (tmp_path / 'notes.txt').write_text('')
    assert np.array_equal(read_image(tmp_path / 'ok.png'), GREY)
    assert [path.name for path in list_images(str(tmp_path))] == ['deep.png', 'ok.png']
