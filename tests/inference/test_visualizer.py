import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from mmvitscale.inference import Visualizer, text
from mmvitscale.inference.text import fit_text, text_mask

pytestmark = pytest.mark.unit

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
    picture = Visualizer(META).paint(GREY, semantic(pred=labels))
    assert picture.shape[0] > 40 and picture.shape[1] == 60
    assert picture[5, 5].tolist() == [100, 100, 100]
    assert picture[20, 5].tolist() == [160, 52, 46]  # 0.4 * 100 + 0.6 * BGR (200, 20, 10)
    assert picture[20, 50].tolist() == [40, 100, 160]


def test_ground_truth_and_prediction_are_drawn_side_by_side():
    labels = torch.zeros(40, 60, dtype=torch.long)
    picture = Visualizer(META).compare(GREY, semantic(gt=labels, pred=labels + 1))
    assert picture.shape[1] == 180
    assert picture[20, 5].tolist() == [100, 100, 100]
    assert picture[20, 65].tolist() == [160, 52, 46] and picture[20, 125].tolist() == [40, 100, 160]


def drawn(sample, score_thr=0.5):
    picture = Visualizer(META, score_thr=score_thr).paint(GREY, sample)
    assert picture.shape[1] == GREY.shape[1] and picture.dtype == np.uint8
    return picture


def test_instances_above_the_score_are_drawn():
    masks = np.zeros((2, 40, 60), bool)
    masks[0, 15:35, 5:25] = masks[1, 15:35, 35:55] = True
    instances = InstanceData(
        bboxes=torch.tensor([[5.0, 15, 25, 35], [35, 15, 55, 35]]),
        labels=torch.tensor([0, 1]),
        scores=torch.tensor([0.9, 0.1]),
        masks=masks,
    )
    sample = BaseDataElement()
    sample.set_field(instances, 'pred_instances', dtype=InstanceData)
    picture = drawn(sample)
    blue, green, red = picture[30, 15].tolist()
    assert blue > red + 40  # of class 0, in BGR
    assert np.array_equal(picture[32:40, 40:], GREY[32:, 40:])
    assert not np.array_equal(drawn(sample, 0.05)[32:40, 40:], GREY[32:, 40:])
    assert np.array_equal(drawn(sample, 0.95), GREY)


@pytest.mark.integration
def test_segments_and_classes_of_images_are_drawn():
    panoptic = BaseDataElement()
    ids = torch.full((1, 40, 60), len(META['classes']))  # nothing
    ids[:, 10:30, 10:30] = 1000
    panoptic.set_field(PixelData(sem_seg=ids), 'pred_panoptic_seg', dtype=PixelData)
    picture = drawn(panoptic)
    assert picture[20, 20].tolist() == [160, 52, 46]  # of class 0
    assert picture[20, 10].tolist() == picture[10, 20].tolist() == [255] * 3
    assert np.array_equal(picture[32:40, 40:], GREY[32:, 40:])
    from mmpretrain.structures import DataSample

    label = DataSample().set_pred_label(1).set_pred_score(torch.tensor([0.2, 0.8]))
    assert not np.array_equal(drawn(label), GREY)


def test_classes_without_a_palette_get_distinct_colours():
    visualizer = Visualizer(dict(classes=[str(i) for i in range(20)]))
    assert len(set(visualizer.palette)) == 20


def test_names_in_any_script_are_drawn():
    first = text_mask('road', 20)
    assert first.max() == 255 and first.shape == (text_mask('', 20).shape[0], first.shape[1])
    for name in ('Straße', 'дорога', 'δρόμος'):
        drawn = text_mask(name, 20)
        assert not np.array_equal(drawn, text_mask('?' * len(name), 20)) and drawn.shape[0] == first.shape[0]
        assert len({text_mask(letter, 20).tobytes() for letter in name}) == len(set(name))  # no letter is a box
    assert text_mask('a\nb', 20).shape == text_mask('a b', 20).shape


def test_letters_that_no_font_has_are_reported_once(monkeypatch):
    lines = []
    monkeypatch.setattr(text, 'print_log', lambda line, *args, **kwargs: lines.append(line))
    monkeypatch.setattr(text, '_said', set())
    for name in ('\U0010fffd', '\U0010fffc'):  # of nobody
        text.text_mask.__wrapped__(name, 20)
    assert len(lines) == 1 and 'no font of this machine has' in lines[0]


def test_long_names_end_with_an_ellipsis_inside_the_picture():
    name = 'a name that is much longer than the picture is wide'
    short = fit_text(name, 13, 60)
    assert name.startswith(short[:-1]) and short.endswith('…') and text_mask(short, 13).shape[1] <= 60
    assert fit_text('road', 13, 60) == 'road'
    visualizer = Visualizer(dict(classes=[name], palette=[[0, 0, 255]]))
    picture = visualizer.paint(GREY, semantic(pred=torch.zeros(40, 60, dtype=torch.long)))
    assert (picture[40:, -2:] == 255).all()  # the legend's margin
    sample = BaseDataElement()
    box = InstanceData(bboxes=torch.tensor([[50.0, 30, 58, 38]]), labels=torch.tensor([0]), scores=torch.tensor([0.9]))
    sample.set_field(box, 'pred_instances', dtype=InstanceData)
    drawn = visualizer.paint(GREY, sample)[20].tolist()
    assert drawn[30] == [255, 0, 0]  # moved to the left, as far as it must
