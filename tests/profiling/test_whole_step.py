"""The parts of a whole step are its own: nothing is counted twice, everything runs, on the same data for every config."""

import time

import pytest
import torch
from mmengine.config import Config

from mmvitscale.config.loading import load_config
from mmvitscale.config.view import ConfigView
from mmvitscale.errors import InputError
from mmvitscale.profiling import whole_step
from mmvitscale.profiling.drawn_samples import draw_samples
from mmvitscale.profiling.whole_step import (
    BACKBONE,
    BACKWARD_BACKBONE,
    BACKWARD_HEADS,
    DATA,
    OPTIMIZER,
    OTHER,
    PREPROCESSING,
    PartTimer,
    WholeCase,
    WholeStep,
)

SEGMENTATION, DETECTION = 'swinv2_upernet_mini', 'swinv2_mask_rcnn_mini'
SWIN_V1 = 'mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py'
HEADS = {SEGMENTATION: {'decode_head', 'auxiliary_head'}, DETECTION: {'neck', 'rpn_head', 'roi_head'}}


@pytest.fixture(params=[(SEGMENTATION, 'fp32'), (SEGMENTATION, 'bf16'), (DETECTION, 'fp32'), (DETECTION, 'bf16')], ids=str)
def name_and_step(request):
    name, dtype = request.param
    with whole_step.steps_of([load_config(name)], WholeCase(dtype=dtype, batch=2, size=64)) as (step,):
        yield name, step


@pytest.mark.unit
def test_nested_parts_are_disjoint_and_sum_to_the_whole():
    timer = PartTimer('cpu')
    start = time.perf_counter()
    timer.begin()
    with timer.part('outer'):
        time.sleep(0.02)
        with timer.part('inner'):
            time.sleep(0.04)
            timer.switch('outer', 'nobody')  # not the innermost
            timer.switch('inner', 'later')
            time.sleep(0.03)
    found = timer.end()
    whole = time.perf_counter() - start
    assert set(found) == {OTHER, 'outer', 'inner', 'later'}
    assert found['outer'] >= 0.02 and found['inner'] >= 0.04 and found['later'] >= 0.03
    assert whole - 0.01 < sum(found.values()) <= whole


@pytest.mark.integration
def test_a_step_has_all_parts_and_updates_every_parameter_that_gets_a_gradient(name_and_step):
    name, step = name_and_step
    model = step.model
    # When the gradient of a parameter is there, autograd is in the part that the parameter belongs to.
    seen = {}

    def watch(key):
        def look(parameter):
            seen[key] = step.timer._open[-1], parameter.grad.abs().max().item()

        return look

    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(watch(key))
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    start = time.perf_counter()
    seconds = step()
    whole = time.perf_counter() - start
    assert set(seconds) == {DATA, PREPROCESSING, BACKBONE, BACKWARD_HEADS, BACKWARD_BACKBONE, OPTIMIZER, OTHER} | HEADS[name]
    assert all(part > 0 for part in seconds.values()) and sum(seconds.values()) <= whole
    assert seconds[OTHER] < 0.5 * whole  # nothing large is left out of the parts
    parts = {key.split('.')[0] for key in seen}
    assert parts == {BACKBONE} | HEADS[name]
    for key, (part, _) in seen.items():
        assert part == (BACKWARD_BACKBONE if key.startswith('backbone.') else BACKWARD_HEADS), key
    for own in parts:
        assert any(largest > 0 for key, (_, largest) in seen.items() if key.split('.')[0] == own), own
    for key, parameter in model.named_parameters():
        if seen.get(key, ('', 0))[1] > 0:
            assert not torch.equal(parameter, before[key]), key
            assert parameter.grad is None or not parameter.grad.any()
    assert step.shape == (2, 3, 64, 64)


@pytest.mark.integration
@pytest.mark.parametrize('names', [(SEGMENTATION, 'deepvit_upernet_mini'), (DETECTION, 'swinv2_mask_rcnn_mini')])
def test_configs_get_the_same_images_in_each_round_and_others_in_the_next(names):
    inputs = []
    cfgs = [load_config(name) for name in names]
    with whole_step.steps_of(cfgs, WholeCase(batch=2, size=64)) as steps:
        for step in steps:
            step.model.backbone.register_forward_pre_hook(lambda _, images: inputs.append(images[0].clone()))
        measured = whole_step.measure(steps, 2)
    assert [len(rounds) for rounds in measured] == [2, 2]
    warm, first, second = (inputs[i : i + 2] for i in (0, 2, 4))
    for images in (warm, first, second):
        assert torch.equal(*images)
    assert not torch.equal(first[0], second[0])


@pytest.mark.integration
def test_medians_and_ratios_follow_from_the_rounds():
    with whole_step.steps_of([load_config(SEGMENTATION)], WholeCase(batch=1, size=64)) as (step,):
        rounds = [{DATA: 1.0, BACKBONE: 2.0, OTHER: 1.0}, {DATA: 2.0, BACKBONE: 4.0, OTHER: 0.0}, {DATA: 1.5, BACKBONE: 9.0}]
        first = whole_step.summarise('a', step, rounds)
        second = whole_step.summarise('b', step, [{DATA: 3.0, BACKBONE: 3.0, 'neck': 1.0, OTHER: 0.0}])
    assert first.seconds == {'step': 6.0, DATA: 1.5, BACKBONE: 4.0, OTHER: 0.0}
    assert whole_step.ratios([first, second]) == [{'step': 7 / 6, DATA: 2.0, BACKBONE: 0.75}]


@pytest.mark.integration
def test_no_file_of_weights_is_read_and_layers_over_processes_run_in_one(monkeypatch):
    """Of mmsegmentation's own SwinV1, with narrow heads."""
    from mmengine.runner import checkpoint

    cfg = load_config(SWIN_V1, {'model.decode_head.channels': 32, 'model.auxiliary_head.channels': 32})
    assert 'Pretrained' in str(cfg.model) and cfg.model.decode_head.norm_cfg.type == 'SyncBN'

    def refuse(*args, **kwargs):
        raise AssertionError(args)

    monkeypatch.setattr(checkpoint.CheckpointLoader, 'load_checkpoint', refuse)
    with whole_step.steps_of([cfg], WholeCase(batch=2, size=64)) as (step,):
        assert not [m for m in step.model.modules() if isinstance(m, torch.nn.SyncBatchNorm)]
        assert sum(step().values()) > 0
    assert 'Pretrained' in str(cfg.model)  # the config is as it was


@pytest.mark.integration
@pytest.mark.parametrize('name', [SEGMENTATION, DETECTION])
def test_inference_predicts_an_image_of_the_test_size_without_gradients(name):
    with whole_step.steps_of([load_config(name)], WholeCase(mode='inference')) as (step,):
        predicted = []
        step.model.register_forward_hook(lambda model, args, outputs: predicted.extend(outputs))
        seconds = step()
    assert set(seconds) <= {DATA, PREPROCESSING, BACKBONE, OTHER} | HEADS[name] and DATA in seconds and BACKBONE in seconds
    assert len(predicted) == 1 and step.shape[0] == 1 and step.shape[2] > 64
    assert not any(p.grad is not None for p in step.model.parameters())


@pytest.mark.integration
def test_an_image_size_replaces_crops_of_segmentation_and_all_sizes_of_detection():
    cfg = load_config('swinv2_upernet_ade20k')
    whole_step.use_image_size(cfg, 320)
    kinds = {step.type: step for step in whole_step.train_pipeline_of(cfg)}
    assert kinds['RandomCrop'].crop_size == (320, 320) and kinds['RandomResize'].scale == (2048, 512)
    assert cfg.model.data_preprocessor.size == (320, 320)
    for name in ('swinv2_mask_rcnn_coco', 'swinv2_retinanet_coco', 'swinv2_htc_coco'):
        cfg = load_config(name)
        whole_step.use_image_size(cfg, 320)
        kinds = [step.type for step in whole_step.train_pipeline_of(cfg)]
        assert kinds.count('Resize') == 1 and not {'RandomChoice', 'RandomChoiceResize', 'RandomCrop'} & set(kinds)
        assert kinds[0] == 'LoadImageFromFile' and kinds[-1] == 'PackDetInputs'


@pytest.mark.integration
def test_drawn_samples_are_equal_in_every_run_and_have_the_classes(tmp_path):
    for task, classes in (('segmentation', 5), ('segmentation', 2), ('detection', 3), ('detection', 1203)):
        found = []
        for run in ('a', 'b'):
            folder = tmp_path / f'{task}{classes}{run}'
            folder.mkdir()
            samples = draw_samples(folder, 2, task, classes)
            found.append([path.read_bytes() for path in sorted(folder.iterdir())])
        assert found[0] == found[1] and len(found[0]) == 4
        for sample in samples if task == 'detection' else ():
            assert sample['instances']
            for item in sample['instances']:
                x1, y1, x2, y2 = item['bbox']
                assert 0 <= x1 < x2 <= sample['width'] and 0 <= y1 < y2 <= sample['height']
                assert 0 <= item['bbox_label'] < classes and len(item['mask'][0]) >= 6


# Bad input


@pytest.mark.integration
def test_configs_that_have_no_whole_step_are_refused():
    cfg = load_config(SEGMENTATION)
    cfg.train_dataloader.dataset.pipeline = None
    with pytest.raises(InputError, match='train data set of .* has no pipeline'):
        WholeStep(cfg, WholeCase(), [])
    cfg = load_config(SEGMENTATION)
    cfg.pop('train_dataloader')
    with pytest.raises(InputError, match='has no train_dataloader'):
        whole_step.check_config(cfg)
    with pytest.raises(InputError, match='is of classification'):
        whole_step.check_config(load_config('vit_classifier_mini'))
    both = whole_step.steps_of([load_config(SEGMENTATION), load_config(DETECTION)], WholeCase())
    with pytest.raises(InputError, match=r'is of segmentation and .* of detection'), both:
        pass
    cfg = load_config(DETECTION)
    cfg.train_dataloader.dataset = Config(dict(d=dict(type='MultiImageMixDataset', dataset=cfg.train_dataloader.dataset))).d
    with pytest.raises(InputError, match='mixes images'):
        whole_step.train_pipeline_of(cfg)


@pytest.mark.integration
def test_a_pipeline_that_needs_other_data_is_refused_with_the_reason():
    cfg = load_config(SEGMENTATION)
    cfg.train_dataloader.dataset.pipeline.insert(2, dict(type='LoadDepthAnnotation'))
    steps = whole_step.steps_of([cfg], WholeCase(batch=1, size=64))
    with steps as (step,), pytest.raises(InputError, match='cannot take the images that are drawn for it'):
        step()


@pytest.mark.unit
@pytest.mark.parametrize(
    'case, found',
    [
        (WholeCase(batch=0), '--batch-size 0'),
        (WholeCase(size=-1), '--image-size -1'),
        (WholeCase(dtype='fp16'), '--dtype fp16'),
    ],
)
def test_cases_that_cannot_be_measured_are_refused(case, found):
    with pytest.raises(InputError, match=f'{found} found'):
        whole_step.check_case(case)


@pytest.mark.integration
def test_variants_that_cannot_be_measured_are_refused():
    inference = WholeCase(mode='inference')
    for case in (WholeCase(), WholeCase(mode='inference', dtype='bf16')):
        with pytest.raises(InputError, match='exported files are measured in inference with fp32'):
            whole_step.check_case(case, 'onnx')
    with pytest.raises(InputError, match='--variant checkpointed found with --whole'):
        whole_step.check_case(inference, 'checkpointed')
    steps = whole_step.steps_of([load_config(SEGMENTATION)], inference, ['onnx'])
    with pytest.raises(InputError, match='--variant onnx found without --image-size'), steps:
        pass


@pytest.mark.slow
def test_variants_predict_the_same_from_the_same_images():
    outputs = {}
    case = WholeCase(mode='inference', size=64)
    with whole_step.steps_of([load_config(SEGMENTATION)], case, ['plain', 'compiled', 'onnx', 'openvino']) as steps:
        for step in steps:
            step.model.register_forward_hook(lambda model, args, out, name=step.variant: outputs.update({name: out[0]}))
        for step in steps:
            seconds = step()
            assert step.shape == (1, 3, 64, 64) and (step.variant in seconds) == (step.variant in ('onnx', 'openvino'))
            assert (BACKBONE in seconds) == (step.variant in ('plain', 'compiled'))
    expected = outputs['plain'].seg_logits.data
    for name, found in outputs.items():
        assert torch.allclose(found.seg_logits.data, expected, atol=1e-3 * expected.abs().max()), name


@pytest.mark.integration
def test_the_configs_of_comparisons_are_there_and_of_one_task():
    for ours, other in (
        ('swinv2_upernet_ade20k', SWIN_V1),
        ('swinv2_mask_rcnn_coco', 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_amp-ms-crop-3x_coco.py'),
        ('swinv2_retinanet_coco', 'mmdet::swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py'),
    ):
        cfgs = [load_config(ours), load_config(other)]
        for cfg in cfgs:
            whole_step.check_config(cfg)
        assert ConfigView(cfgs[0]).task == ConfigView(cfgs[1]).task
        assert whole_step.classes_of(cfgs) == (150 if 'ade20k' in ours else 80)
