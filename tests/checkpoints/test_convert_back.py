"""Weights that leave: the other library loads them strictly and computes what we do, and they come back as they were."""

import pytest
import torch

from mmvitscale.checkpoints.convert import convert, convert_back, libraries_of, weights_in
from mmvitscale.errors import InputError
from mmvitscale.models import DeepViT, SwinTransformerV2
from mmvitscale.profiling import reference_models
from tests.helpers.official_layout import official_state_dict
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.integration

SMALL = dict(embed_dims=8, depths=(2, 1, 2, 1), num_heads=(1, 1, 2, 2))
REFERENCE_MODELS = {'timm': 'timm', 'huggingface': 'Hugging Face', 'mmpretrain': 'mmpretrain', 'torchvision': 'torchvision'}


def converted_of(backbone):
    return convert(weights_in(backbone.state_dict()))


def back_of(backbone, library, **heads):
    converted = converted_of(backbone)
    return convert_back(converted, converted.weight_metadata, library, heads)


@pytest.fixture
def image():
    return torch.randn(2, 3, 256, 256)


@pytest.mark.parametrize('library', REFERENCE_MODELS)
def test_weights_converted_back_reproduce_our_features_in_each_library(library, image):
    """Windows larger than those of pretraining, where the library knows the difference."""
    pretrained_windows = None if library == 'torchvision' else [4, 4, 4, 2]
    ours = randomise(SwinTransformerV2(SMALL, 8, pretrained_windows, out_norm=False)).eval()
    theirs, stages = reference_models.REFERENCE_MODELS[REFERENCE_MODELS[library]](SMALL, 256, (8,) * 4, pretrained_windows)
    randomise(theirs)
    back = back_of(ours, library)
    wanted = {key: value for key, value in theirs.state_dict().items() if not key.startswith(('norm', 'head', 'layernorm'))}
    assert set(back.weights) == set(wanted)
    for key in wanted:
        if 'relative_position_index' in key or 'relative_coords_table' in key:
            assert torch.allclose(back.weights[key], wanted[key], atol=1e-6), key
    theirs.load_state_dict(back.weights, strict=False)
    with torch.no_grad():
        for out, expected in zip(ours(image), stages(image), strict=True):
            assert (out - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize('library', ['timm', 'mmpretrain', 'torchvision'])
def test_the_call_that_is_printed_builds_a_model_of_these_weights(library):
    reference_models.REFERENCE_MODELS[library](SMALL, 256, (8,) * 4, None)  # makes what is imported here importable
    from importlib import import_module

    back = back_of(randomise(SwinTransformerV2(SMALL, 8)), library)
    module, _, name = back.builder.rpartition('.')
    names = {**vars(import_module(module)), library: import_module(library)}
    keys = {key for key in eval(back.call(''), names).state_dict() if not key.startswith('head.')}
    assert name in names and set(back.weights) == keys


@pytest.mark.parametrize('head', ['head', 'head.fc', 'classifier'])
@pytest.mark.parametrize('library', libraries_of('SwinV2'))
def test_a_classifier_beside_the_backbone_is_found_under_any_usual_name(library, head):
    """People put a backbone of one library under a head of another."""
    back = back_of(randomise(SwinTransformerV2(SMALL, 8)), library)
    beside = {f'{head}.{name}': torch.ones(1) for name in ('weight', 'bias')}
    converted = convert({**{f'encoder.{key}': value for key, value in back.weights.items()}, **beside}, 'encoder.')
    assert converted.heads == {f'head.fc.{name}': f'{head}.{name}' for name in ('weight', 'bias')}


def test_the_last_output_norm_is_converted_back_to_the_final_norm_of_timm(image):
    ours = randomise(SwinTransformerV2(SMALL, 8, out_indices=[3])).eval()
    theirs, _ = reference_models.timm(SMALL, 256, (8,) * 4, None)
    back = back_of(ours, 'timm', weight=torch.randn(10, 64), bias=torch.randn(10))
    theirs.load_state_dict(back.weights, strict=True)
    with torch.no_grad():
        assert torch.allclose(theirs.forward_features(image).permute(0, 3, 1, 2), ours(image)[0], atol=1e-4)


def test_all_output_norms_and_extra_norms_are_converted_back_to_mmpretrain(image):
    from mmpretrain.models import SwinTransformerV2 as Theirs

    arch = dict(SMALL, extra_norm_every=2)
    ours = randomise(SwinTransformerV2(arch, 8, 4)).eval()
    theirs = Theirs(
        arch=dict(SMALL, extra_norm_every_n_blocks=2),
        img_size=256,
        window_size=[8] * 4,
        pretrained_window_sizes=[4] * 4,
        out_indices=(0, 1, 2, 3),
    )
    back = back_of(ours, 'mmpretrain')
    loaded = theirs.load_state_dict(back.weights, strict=False)  # it computes what depends on windows again
    assert not loaded.unexpected_keys and all('relative_' in key for key in loaded.missing_keys)
    theirs.eval()
    with torch.no_grad():
        for out, expected in zip(ours(image), theirs(image), strict=True):
            assert torch.allclose(out, expected, atol=1e-4)
    assert back.builder == 'mmpretrain.models.SwinTransformerV2' and back.arguments['arch']['extra_norm_every_n_blocks'] == 2


@pytest.mark.parametrize('library', libraries_of('SwinV2'))
@pytest.mark.parametrize('channels', [3, 5])
def test_round_trip_is_exact(library, channels):
    pretrained_windows = None if library == 'torchvision' else [6, 6, 6, 3]
    ours = randomise(SwinTransformerV2(SMALL, [8, 8, 8, 4], pretrained_windows, out_indices=[1, 3], in_channels=channels))
    first = converted_of(ours)
    back = back_of(ours, library)
    again = convert(weights_in(back.content))
    assert again.source.lower().replace(' ', '') == library
    left = [] if library == 'mmpretrain' else ['out_norms.1.weight', 'out_norms.1.bias']
    assert back.left_out == left
    assert {key: value for key, value in first.weights.items() if key not in left}.keys() == again.weights.keys()
    assert all(torch.equal(value, first.weights[key]) for key, value in again.weights.items())
    if library in ('official', 'mmpretrain', 'torchvision'):
        assert (
            again.weight_metadata.pretrained_windows == first.weight_metadata.pretrained_windows
            and again.weight_metadata.windows == first.weight_metadata.windows
        )


def test_converting_back_to_official_gives_the_layout_of_public_files():
    ours = randomise(SwinTransformerV2(SMALL, [8, 8, 8, 4], [6, 6, 6, 3], out_indices=[3]))
    expected = {
        key: value
        for key, value in official_state_dict(ours, (8, 8, 8, 4), (6, 6, 6, 3)).items()
        if not key.startswith('head.') and 'attn_mask' not in key
    }
    found = back_of(ours, 'official').weights
    assert set(found) == set(expected)
    for key, value in expected.items():
        if 'relative_position_index' not in key:
            assert torch.allclose(found[key], value, atol=1e-6), key


@pytest.mark.parametrize(
    'arguments, library, message',
    [
        (dict(block_norm='pre'), 'timm', 'timm has no SwinV2 with block_norm pre'),
        (dict(arch=dict(SMALL, extra_norm_every=1)), 'official', 'official has no SwinV2 with a norm on the main branch'),
        (dict(position_bias='table'), 'mmpretrain', 'log-spaced position biases and cosine attention alone'),
        (dict(attention_type='dot_product'), 'huggingface', 'log-spaced position biases and cosine attention alone'),
        (dict(window_size=[(4, 8)] * 4), 'timm', 'its windows are 4x8, but those of timm are squares'),
        (dict(pretrained_window_sizes=4), 'torchvision', 'torchvision knows no pretrained windows'),
    ],
)
def test_what_the_library_would_compute_differently_is_refused(arguments, library, message):
    backbone = SwinTransformerV2(**{**dict(arch=SMALL, window_size=8), **arguments})
    with pytest.raises(InputError, match=message):
        back_of(backbone, library)


@pytest.mark.parametrize(
    'windows, noted',
    [([8, 8, 8, 4], False), ([8, 8, 8, 8], False), ([4, 8, 8, 8], True), ([8, 8, 4, 4], True), ([8, 8, 4, 2], False)],
)
def test_windows_that_one_window_size_cannot_express_are_noted(windows, noted):
    notes = back_of(SwinTransformerV2(SMALL, windows), 'timm').notes
    assert any('one window for all stages' in note for note in notes) == noted


def test_deepvit_round_trip_through_the_official_layout_is_exact():
    ours = randomise(DeepViT(dict(embed_dims=12, depth=3, re_attention=1, num_heads=3), 64))
    back = back_of(ours, 'official', weight=torch.ones(10, 12), bias=torch.ones(10))
    again = convert(weights_in(back.content))
    assert again.source == 'official DeepViT' and again.weight_metadata.grid == (4, 4)
    assert again.weights.keys() == {key for key in converted_of(ours).weights if 'token_law' not in key}
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in again.weights.items())
    assert not any('statistics' in note for note in back.notes)
    with pytest.raises(InputError, match='a DeepViT cannot go to timm; it can go to official'):
        back_of(ours, 'timm')
    with pytest.raises(InputError, match='square'):
        back_of(DeepViT(dict(embed_dims=12, depth=2, re_attention=1, num_heads=3), (32, 64)), 'official')


def test_statistics_of_another_token_count_convert_back_to_the_grids():
    """What was pretrained at 64 pixels and is used at 96 runs there in the official form as here."""
    arch = dict(embed_dims=12, depth=3, re_attention=2, num_heads=3)
    source, ours = randomise(DeepViT(arch, 64)), DeepViT(arch, 96).eval()
    for block in source.blocks[1:]:
        block.attn.var_norm.running_mean.uniform_(-0.1, 0.1)
        block.attn.var_norm.running_var.uniform_(0.01, 0.1)
    ours.load_state_dict(source.state_dict())
    assert ours.weight_metadata.tokens == (0, 17, 17)
    back = back_of(ours, 'official')
    assert any('statistics of 2 blocks' in note for note in back.notes)
    official = DeepViT(arch, 96, reatten_statistics='running').eval()
    official.load_state_dict(back.content)
    again = DeepViT(arch, 96).eval()
    again.load_state_dict(back.content)
    with torch.no_grad():
        for model, side in ((official, 96), (again, 96), (again, 160)):
            image = torch.randn(1, 3, side, side)
            assert torch.allclose(model(image)[0], ours(image)[0], atol=1e-4)
