"""Files to run elsewhere: equal to the model, at one size and at every size."""

import json

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmvitscale.config.loading import load_config
from mmvitscale.errors import InputError
from mmvitscale.export import ExportedFile, ExportRequest, export_model, graph_of, is_exported, run_instead
from mmvitscale.export.dynamic_shapes import DynamicPool
from mmvitscale.export.writer import largest_difference
from mmvitscale.models import DeepViT, SwinTransformerV2
from mmvitscale.utils.choices import EXPORT_FORMATS as FORMATS
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.integration

SWIN = dict(embed_dims=8, depths=(2, 2, 1), num_heads=(1, 2, 2))
VIT = dict(embed_dims=24, depth=3, re_attention=2, num_heads=3, residual_scale=0.5, transform_scale=True)
SIZES = [(64, 64), (97, 131), (33, 200), (20, 7), (1, 1), (5, 300)]
KINDS = {
    'swin': lambda: SwinTransformerV2(SWIN, 4, 8),
    'windows': lambda: SwinTransformerV2(SWIN, [(3, 5), 4, 7], 6),
    'window of one': lambda: SwinTransformerV2(SWIN, [1, 2, 3]),
    'pre-norm, dot product': lambda: SwinTransformerV2(SWIN, 4, block_norm='pre', attention_type='dot_product'),
    'table': lambda: SwinTransformerV2(SWIN, 4, position_bias='table'),
    'linear, extra norm': lambda: SwinTransformerV2(dict(SWIN, extra_norm_every=2), 4, position_bias='linear_cpb'),
    'deepvit': lambda: DeepViT(VIT, 64, out_indices=(0, 2)),
    'vit, conv stem': lambda: DeepViT(dict(VIT, re_attention=0, stem='conv'), (32, 64)),
    'scaled statistics': lambda: with_law(DeepViT(VIT, 64, reatten_statistics='scaled')),
    'statistics of the image': lambda: with_law(DeepViT(VIT, 64, reatten_statistics='image', reatten_image_share=0.7)),
    'official statistics': lambda: DeepViT(VIT, 64, reatten_statistics='running'),
    'class token': lambda: DeepViT(VIT, 64, out_type='cls_token'),
}


def with_law(model):
    """Exponents of 1.5."""
    for block in model.blocks[1:]:
        law = block.attn.token_law
        law.tokens.copy_(torch.tensor([1.0, 0.0, 100.0]))
        law.moments[1].fill_(-150.0)
    return model


FEW = dict(embed_dims=8, depths=(1, 2), num_heads=(1, 2))  # tracing takes seconds a block


def built(kind):
    model = randomise(KINDS[kind]() if isinstance(kind, str) else kind)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    return model.eval()


@pytest.mark.parametrize('kind', KINDS)
def test_the_dynamic_size_graph_equals_the_model_at_every_size(kind):
    model = built(kind).double()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    module = graph_of(model, 'backbone', None).module
    with torch.no_grad():
        for size in SIZES:
            image = torch.randn(2, 3, *size, dtype=torch.float64)
            assert largest_difference(module(image), model(image)) < 1e-6, size  # eager attention computes in float32 parts
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('budget', [2**26, 0], ids=['expanded', 'tables'])
def test_the_fixed_size_graph_equals_the_model(kind, budget, monkeypatch):
    from mmvitscale.export import constant_folding

    monkeypatch.setattr(constant_folding, '_EXPANDED', budget)
    model = built(kind).double()
    graph = graph_of(model, 'backbone', (33, 70), batch=2)
    image = torch.randn(2, 3, 33, 70, dtype=torch.float64)
    with torch.no_grad():
        assert largest_difference(graph.module(image), model(image)) < 1e-6


@pytest.mark.parametrize('cells', [1, 2, 3, 6, (2, 5)])
@pytest.mark.parametrize('size', [(1, 1), (2, 3), (6, 6), (7, 11), (16, 16)])
def test_any_size_pooling_equals_adaptive_average_pooling(cells, size):
    pool, image = nn.AdaptiveAvgPool2d(cells), torch.randn(2, 3, *size)
    assert torch.allclose(DynamicPool(pool)(image), pool(image), atol=1e-6)


@pytest.mark.parametrize('kind', [pytest.param('swin', marks=pytest.mark.slow), 'deepvit'])
@pytest.mark.parametrize('format', FORMATS)
def test_an_exported_backbone_equals_the_model_in_every_format(kind, format, tmp_path):
    model = built(SwinTransformerV2(FEW, 4, 8) if kind == 'swin' else kind)
    path = tmp_path / f'one{FORMATS[format]}'
    assert export_model(model, ExportRequest(format, 'backbone', (48, 80), about=dict(classes=['a'])), path) < 1e-4
    assert sorted(part.name for part in tmp_path.iterdir()) == sorted(
        [path.name, *(['one.bin'] if format == 'openvino' else [])]
    )
    file, image = ExportedFile(path), torch.randn(1, 3, 48, 80)
    with torch.no_grad():
        assert largest_difference(file(image), model(image)) < 1e-4
    assert file.size == (48, 80) and file.about['classes'] == ['a']
    with pytest.raises(InputError, match='is for 1 x 48 x 80 pixels, but 1 x 48 x 81 came; export that size'):
        file(torch.randn(1, 3, 48, 81))


@pytest.mark.slow
@pytest.mark.parametrize('format', FORMATS)
def test_a_dynamic_size_file_equals_the_model_at_every_size(format, tmp_path):
    model = built(SwinTransformerV2(FEW, [(3, 5), 4], 6))
    path = tmp_path / f'any{FORMATS[format]}'
    export_model(model, ExportRequest(format, 'backbone'), path)
    file = ExportedFile(path)
    with torch.no_grad():
        for batch, size in [(1, (64, 64)), (2, (50, 90)), (1, (128, 32)), (3, (21, 8))]:
            image = torch.randn(batch, 3, *size)
            assert largest_difference(file(image), model(image)) < 1e-4, size


def whole(config, **options):
    """A small random model of a config."""
    cfg = load_config(config, options)
    init_default_scope(cfg.default_scope)
    model = randomise(MODELS.build(cfg.model)).eval()
    return cfg, model


SMALL = {
    'model.backbone.arch': dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2)),
    'model.decode_head.in_channels': [8, 16, 32, 64],
    'model.auxiliary_head.in_channels': 32,
}


@pytest.fixture(scope='module')
def segmentor(tmp_path_factory):
    """A model and its file for every size."""
    torch.manual_seed(0)
    cfg, model = whole('configs/mini/swinv2_upernet_mini.py', **SMALL)
    path = tmp_path_factory.mktemp('segmentor') / 'any.onnx'
    export_model(model, ExportRequest(), path)
    return model, path


@pytest.mark.slow
def test_a_dynamic_size_segmentor_equals_the_model_at_every_size(segmentor):
    model, path = segmentor
    file = ExportedFile(path)
    for size in [(128, 128), (96, 160), (65, 47)]:
        image = torch.randn(1, 3, *size)
        with torch.no_grad():
            expected = model.encode_decode(image, [dict(img_shape=size)])
        (logits,) = file(image)
        assert logits.shape == expected.shape == (1, 10, *size)
        assert (logits - expected).abs().max() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['whole', 'slide'])
def test_an_exported_segmentor_predicts_like_its_model_in_testing(segmentor, mode):
    model, path = segmentor
    image = torch.randint(0, 256, (3, 96, 130), dtype=torch.uint8)
    _, other = whole('configs/mini/swinv2_upernet_mini.py', **SMALL)
    for one in (model, other):
        one.test_cfg = type(one.test_cfg)(mode=mode, crop_size=(64, 64), stride=(40, 40))
    from mmseg.structures import SegDataSample

    def predict(one):
        sample = SegDataSample(metainfo=dict(img_shape=(96, 130), ori_shape=(96, 130), pad_shape=(96, 130)))
        with torch.no_grad():
            return one.test_step(dict(inputs=[image], data_samples=[sample]))[0]

    expected = predict(model).seg_logits.data
    assert not torch.allclose(predict(other).seg_logits.data, expected, atol=1e-3)
    run_instead(other, path)
    assert torch.allclose(predict(other).seg_logits.data, expected, atol=1e-3)


@pytest.mark.slow
def test_an_exported_detector_gives_the_models_boxes_scores_and_labels(tmp_path):
    """Boxes, scores and labels behind non-maximum suppression."""
    from mmdet.structures import DetDataSample

    small = {
        'model.backbone.arch': dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2)),
        'model.neck.in_channels': [16, 32, 64],
        'model.test_cfg.score_thr': 0.5,
    }
    _, model = whole('configs/mini/swinv2_retinanet_mini.py', **small)
    size = (96, 128)
    path = tmp_path / 'detector.onnx'
    assert export_model(model, ExportRequest(size=size), path) < 1e-3
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)

    def predict(one):
        sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=(192, 256), pad_shape=size, scale_factor=(0.5, 0.5)))
        with torch.no_grad():
            return one.test_step(dict(inputs=[image], data_samples=[sample]))[0].pred_instances

    expected = predict(model)
    assert len(expected) > 5 and len(set(expected.labels.tolist())) > 1
    _, other = whole('configs/mini/swinv2_retinanet_mini.py', **small)
    run_instead(other, path)
    found = predict(other)
    assert torch.equal(found.labels, expected.labels)
    assert torch.allclose(found.scores, expected.scores, atol=1e-4)
    assert torch.allclose(found.bboxes, expected.bboxes, atol=0.05)


@pytest.mark.slow
def test_int8_export_quantises_with_a_bounded_difference(segmentor, tmp_path):
    model, _ = segmentor
    images = [torch.randn(1, 3, 64, 64) for _ in range(4)]
    for format in ('onnx', 'openvino'):
        path = tmp_path / f'int8{FORMATS[format]}'
        difference = export_model(model, ExportRequest(format, size=(64, 64), calibration=images), path)
        assert 1e-6 < difference < 0.5 and ExportedFile(path).about['int8']
    import onnx

    kinds = {node.op_type for node in onnx.load(tmp_path / 'int8.onnx').graph.node}
    assert 'QuantizeLinear' in kinds
    with pytest.raises(InputError, match='int8 is written by ONNX Runtime and OpenVINO'):
        export_model(model, ExportRequest('torch-export', size=(64, 64), calibration=images), tmp_path / 'a.pt2')
    assert not (tmp_path / 'a.pt2').exists()


def test_a_file_that_would_differ_is_not_written(tmp_path, monkeypatch):
    from mmvitscale.export import writer

    monkeypatch.setattr(writer, '_compare', lambda path, graph: 0.01)
    with pytest.raises(InputError, match='would differ from the model by 1.0e-02'):
        export_model(built('deepvit'), ExportRequest('torch-export', 'backbone', (32, 32)), tmp_path / 'a.pt2')
    assert not list(tmp_path.iterdir())


def test_models_and_files_that_cannot_be_exported_are_refused(tmp_path):
    windowed = DeepViT(VIT, 64, window_size=2)
    with pytest.raises(InputError, match='attends in windows of .2, 2. tokens'):
        graph_of(windowed, 'backbone', None)
    assert graph_of(windowed, 'backbone', (64, 64)).outputs == ['map0']
    with pytest.raises(InputError, match='its backbone is a Conv2d'):
        graph_of(nn.Conv2d(3, 3, 1), 'backbone', None)
    _, detector = whole('configs/mini/swinv2_retinanet_mini.py')
    with pytest.raises(InputError, match='anchors of a detector are constants of one size'):
        graph_of(detector, 'model', None)
    _, two_stage = whole('configs/mini/swinv2_mask_rcnn_mini.py')
    with pytest.raises(InputError, match='MaskRCNN has no whole form in one file; .*mmdeploy'):
        graph_of(two_stage, 'model', (64, 64))
    assert len(graph_of(two_stage, 'backbone', (64, 64)).outputs) == 5
    with pytest.raises(InputError, match='is not there'):
        ExportedFile(tmp_path / 'a.onnx')
    (tmp_path / 'a.onnx').write_bytes(b'no model')
    with pytest.raises(InputError, match='cannot be read'):
        ExportedFile(tmp_path / 'a.onnx')


@pytest.mark.slow
def test_files_hold_their_metadata_and_refuse_models_they_do_not_fit(segmentor, tmp_path):
    model, path = segmentor
    import onnx

    about = json.loads({prop.key: prop.value for prop in onnx.load(path).metadata_props}['mmvitscale'])
    assert about['outputs'] == ['logits'] and about['size'] is None and about['part'] == 'model'
    _, detector = whole('configs/mini/swinv2_retinanet_mini.py')
    with pytest.raises(InputError, match='gives logits, which a RetinaNet does not predict from'):
        run_instead(detector, path)
    plain = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node('Identity', ['x'], ['y'])],
            'g',
            [onnx.helper.make_tensor_value_info('x', 1, [1])],
            [onnx.helper.make_tensor_value_info('y', 1, [1])],
        )
    )
    onnx.save(plain, tmp_path / 'theirs.onnx')
    with pytest.raises(InputError, match='was not written by tools/export.py'):
        ExportedFile(tmp_path / 'theirs.onnx')
    assert np.isfinite(ExportedFile(path)(torch.zeros(1, 3, 32, 32))[0]).all()


@pytest.fixture
def folder_of(tmp_path, monkeypatch):
    """Makes a folder of files with these metadata, which need no runtime."""
    from mmvitscale.export import runtime

    known = dict(part='model', outputs=['logits'], size=None, batch=None, classes=['a'], int8=False, checkpoint='a.pth')

    def make(**files):
        abouts = {name: json.dumps({**known, **about}) for name, about in files.items()}
        for name in abouts:
            (tmp_path / name.replace('__', '.')).write_text('')
        opened = staticmethod(lambda path, threads: (lambda image: [path.name], abouts[path.name.replace('.', '__')]))
        for runtime_name in ('onnx', 'openvino', 'torch'):
            monkeypatch.setattr(ExportedFile, f'_open_{runtime_name}', opened)
        return runtime.ExportedFiles(tmp_path)

    return make


def test_a_folder_runs_the_file_of_the_size_whatever_its_format(folder_of, tmp_path):
    small, large = dict(size=[32, 32], batch=1), dict(size=[64, 64], batch=1)
    files = folder_of(a__xml=small, b__pt2=large, c__onnx={}, backbone__onnx=dict(small, part='backbone', outputs=['map0']))
    assert is_exported(tmp_path) and files.about['part'] == 'model'
    found = [files(torch.zeros(1, 3, side, side)) for side in (32, 64, 96)]
    assert found == [['a.xml'], ['b.pt2'], ['c.onnx']]


@pytest.mark.parametrize(
    'files, says',
    [
        (dict(a__onnx={}, b__xml={}), 'two files for every size, a.onnx and b.xml; give one of them'),
        (
            dict(a__onnx=dict(size=[8, 8], batch=1), b__onnx=dict(size=[8, 8], batch=4)),
            'two files for 8x8 pixels, a.onnx and b',
        ),
        (dict(a__onnx={}, b__pt2=dict(size=[8, 8], batch=1, checkpoint='b.pth')), 'different models: .* differ in checkpoint'),
        (dict(a__onnx={}, b__pt2=dict(size=[8, 8], batch=1, classes=['b'])), 'different models: .* differ in classes'),
    ],
)
def test_a_folder_in_which_several_files_could_run_is_refused(files, says, folder_of):
    with pytest.raises(InputError, match=says):
        folder_of(**files)
