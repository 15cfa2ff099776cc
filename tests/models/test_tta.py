"""Test-time augmentation of masks."""

import copy

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

import mmvitscale
from mmvitscale.errors import InputError
from mmvitscale.models.tta import MaskTTAModel
from tests.helpers.randomise import randomise
from tests.helpers.shrink import shrink

pytestmark = pytest.mark.integration

SIZE = (64, 96)
NMS = dict(type='nms', iou_threshold=0.5)


def detector(name='swinv2_mask_rcnn_mini'):
    cfg = mmvitscale.load_config(name)
    init_default_scope('mmdet')
    if name != 'swinv2_mask_rcnn_mini':
        shrink(cfg.model, SIZE)
    if 'roi_head' in cfg.model:
        cfg.model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=10)
    model = MODELS.build(cfg.model)
    model.init_weights()
    randomise(model.eval())
    for module in model.modules():
        if hasattr(module, 'conv_logits'):  # masks with as much inside as outside, and clear edges
            module.conv_logits.weight.data *= 10
            module.conv_logits.bias.data.zero_()
    return model


def view(image, flip=None, scale=1):
    from mmdet.structures import DetDataSample

    axes = {None: [], 'horizontal': [-1], 'vertical': [-2], 'diagonal': [-1, -2]}[flip]
    image = image.flip(axes) if axes else image
    size = tuple(image.shape[-2:])
    meta = dict(
        img_id=7,
        img_shape=size,
        ori_shape=tuple(side // scale for side in size),
        pad_shape=size,
        batch_input_shape=size,
        scale_factor=(float(scale), float(scale)),
        flip=flip is not None,
        flip_direction=flip,
    )
    return image, DetDataSample(metainfo=meta)


def views(*pairs):
    """As the data loader gives them: for each view a batch, here of one image."""
    return dict(inputs=[[image] for image, _ in pairs], data_samples=[[copy.deepcopy(sample)] for _, sample in pairs])


@pytest.fixture
def image():
    return torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8)


@pytest.mark.parametrize(
    'name',
    [
        'swinv2_mask_rcnn_mini',
        pytest.param('swinv2_cascade_mask_rcnn_coco', marks=pytest.mark.slow),
        pytest.param('swinv2_htc_coco', marks=pytest.mark.slow),
    ],
)
def test_one_view_is_the_model_itself(name, image):
    model = detector(name)
    pair = view(image)
    with torch.no_grad():
        (own,) = model.test_step(dict(inputs=[image], data_samples=[copy.deepcopy(pair[1])]))
    (merged,) = MaskTTAModel(module=model, nms=dict(type='nms', iou_threshold=1.0)).test_step(views(pair))
    mine, theirs = merged.pred_instances, own.pred_instances
    assert merged.img_id == 7 and len(mine) == len(theirs) > 0
    order, reference = (torch.argsort(r.scores, descending=True, stable=True) for r in (mine, theirs))
    assert torch.allclose(mine.scores[order], theirs.scores[reference])
    assert torch.allclose(mine.bboxes[order], theirs.bboxes[reference], atol=1e-4)
    assert (mine.masks[order] != theirs.masks[reference]).float().mean() < 1e-3  # rounded to 1 / 255 before the threshold


@pytest.mark.parametrize('flip', ['horizontal', 'vertical', 'diagonal'])
def test_what_is_found_does_not_depend_on_the_order_of_flips(flip, image):
    """An image and its mirror image have the same two views, so the merged result of one is the mirror of the other's."""
    tta = MaskTTAModel(module=detector(), nms=NMS)
    (plain,) = tta.test_step(views(view(image), view(image, flip)))
    axes = {'horizontal': [-1], 'vertical': [-2], 'diagonal': [-1, -2]}[flip]
    (mirrored,) = tta.test_step(views(view(image.flip(axes)), view(image.flip(axes), flip)))
    a, b = plain.pred_instances, mirrored.pred_instances
    assert len(a) == len(b) > 0 and torch.allclose(a.scores, b.scores, atol=1e-5)
    assert (a.masks != b.masks.flip(axes)).float().mean() < 1e-3
    if -1 in axes:
        assert torch.allclose(a.bboxes[:, 0], SIZE[1] - b.bboxes[:, 2], atol=1e-3)
    if -2 in axes:
        assert torch.allclose(a.bboxes[:, 1], SIZE[0] - b.bboxes[:, 3], atol=1e-3)


@pytest.mark.parametrize('flip', ['horizontal', 'vertical', 'diagonal'])
def test_a_flipped_view_is_turned_back(flip, image):
    model = detector()
    picture, sample = view(image, flip)
    with torch.no_grad():
        (own,) = model.test_step(dict(inputs=[picture], data_samples=[copy.deepcopy(sample)]))
    (merged,) = MaskTTAModel(module=model, nms=dict(type='nms', iou_threshold=1.0)).test_step(views((picture, sample)))
    mine, theirs = merged.pred_instances, own.pred_instances
    order, reference = (torch.argsort(r.scores, descending=True, stable=True) for r in (mine, theirs))
    axes = {'horizontal': [-1], 'vertical': [-2], 'diagonal': [-1, -2]}[flip]
    assert len(mine) == len(theirs) > 0
    assert (mine.masks[order] != theirs.masks[reference].flip(axes)).float().mean() < 1e-3
    assert (theirs.masks != theirs.masks.flip(axes)).float().mean() > 1e-2


def test_masks_are_the_mean_over_views(image):
    """Against the mask head run by hand on the merged boxes in each view."""
    from mmengine.structures import InstanceData

    model = detector()
    pairs = [view(image), view(image.repeat_interleave(2, 1).repeat_interleave(2, 2), scale=2)]
    (merged,) = MaskTTAModel(module=model, nms=NMS, max_per_img=5).test_step(views(*pairs))
    found = merged.pred_instances
    assert 0 < len(found) <= 5 and found.masks.shape == (len(found), *SIZE)
    total = 0
    with torch.no_grad():
        for picture, sample in pairs:
            data = model.data_preprocessor(dict(inputs=[picture], data_samples=[copy.deepcopy(sample)]), False)
            boxes = found.bboxes * sample.scale_factor[0]
            model.roi_head.test_cfg.mask_thr_binary = -1
            (result,) = model.roi_head.predict_mask(
                model.extract_feat(data['inputs']),
                [data['data_samples'][0].metainfo],
                [InstanceData(bboxes=boxes, labels=found.labels)],
                rescale=True,
            )
            total = total + result.masks.float() / 255
    assert torch.equal(found.masks, total / 2 >= 0.5)


def test_two_images_are_merged_and_no_detections_give_empty_masks(image):
    model = detector()
    pairs = [view(image), view(255 - image)]
    data = dict(inputs=[[picture for picture, _ in pairs]] * 2, data_samples=[[sample for _, sample in pairs]] * 2)
    assert [len(sample.pred_instances) > 0 for sample in MaskTTAModel(module=model, nms=NMS).test_step(data)] == [True] * 2
    model.roi_head.test_cfg.score_thr = 1.1
    (merged,) = MaskTTAModel(module=model, nms=NMS).test_step(views(pairs[0]))
    assert len(merged.pred_instances) == 0 and merged.pred_instances.masks.shape == (0, *SIZE)


def test_one_stage_detectors_are_refused():
    with pytest.raises(InputError, match='with a RetinaNet, but it is for two-stage detectors'):
        MaskTTAModel(module=retinanet(), nms=NMS)


def retinanet():
    init_default_scope('mmdet')
    return MODELS.build(mmvitscale.load_config('swinv2_retinanet_mini').model)
