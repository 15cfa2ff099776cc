import pytest
import torch

from mmvitscale.checkpoints.convert import convert, weights_in
from mmvitscale.checkpoints.io import read_checkpoint
from mmvitscale.errors import InputError
from mmvitscale.models import SwinTransformerV2
from mmvitscale.models.build_from_weights import check_complete, describe_weights
from mmvitscale.models.swin_v2.coordinates_table import windows_of_coordinates
from mmvitscale.models.swin_v2.variants import SWIN_V2, sizes_of
from mmvitscale.profiling import reference_models
from tests.helpers.official_layout import official_state_dict
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.integration

# arch, image, windows, pretrained windows
CASES = {
    'tiny-w8': ('tiny', 256, (8, 8, 8, 8), None),
    'tiny-w16': ('tiny', 256, (16, 16, 16, 8), None),
    'base-w12to24': ('base', 384, (24, 24, 24, 12), (12, 12, 12, 6)),
}
RUNS = [
    pytest.param(library, case, marks=() if case == 'tiny-w8' else pytest.mark.slow)
    for library in reference_models.REFERENCE_MODELS
    for case in CASES
    # torchvision keeps window 16 as the reference where the map is 8 x 8, and has no other pretrained windows
    if library != 'torchvision' or case == 'tiny-w8'
]


@pytest.mark.parametrize('library, case', RUNS)
def test_converted_weights_reproduce_every_stage_of_the_reference_model(library, case, tmp_path):
    arch, size, windows, pretrained_windows = CASES[case]
    model, stages = reference_models.REFERENCE_MODELS[library](SWIN_V2.archs[arch], size, windows, pretrained_windows)
    randomise(model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'library.pth')

    content = read_checkpoint(tmp_path / 'library.pth')
    converted = convert(weights_in(content))
    assert converted.source == library and f'SwinV2-{arch} ' in describe_weights(converted.weights)
    logged = library in ('mmpretrain', 'torchvision')  # which save their tables
    assert converted.weight_metadata.pretrained_windows == (
        tuple((p, p) for p in pretrained_windows or windows) if logged else (None,) * 4
    )
    ours = SwinTransformerV2(arch, windows, None if logged else pretrained_windows or windows, out_norm=False).eval()
    ours.load_checkpoint(content, 'library.pth')
    image = torch.randn(1, 3, size, size)
    with torch.no_grad():
        for out, theirs in zip(ours(image), stages(image), strict=True):
            assert theirs.std() > 0.1, 'nothing to compare'
            assert (out - theirs).abs().max() < 1e-4


def test_the_final_norm_goes_to_the_last_output():
    model, _ = reference_models.timm(SWIN_V2.archs['tiny'], 64, (8, 8, 8, 2), None)
    randomise(model)
    ours = SwinTransformerV2('tiny', 8)
    ours.load_checkpoint(model.state_dict(), 'timm')
    assert torch.equal(ours.out_norms['3'].weight, model.norm.weight)


OFFICIAL = {
    'w8': ((8, 8, 8, 8), (8, 8, 8, 8)),
    'w16': ((16, 16, 16, 8), (16, 16, 16, 8)),
    '12to16': ((16, 16, 16, 8), (12, 12, 12, 6)),
    '12to24': ((24, 24, 24, 12), (12, 12, 12, 6)),
}
SMALL = dict(embed_dims=8, depths=(2, 2, 2, 1), num_heads=(1, 1, 2, 2))


@pytest.mark.parametrize('name', OFFICIAL)
def test_windows_and_pretrained_windows_are_read_from_official_files(name):
    windows, pretrained_windows = OFFICIAL[name]
    source = randomise(SwinTransformerV2(SMALL, windows, pretrained_windows))
    content = dict(model=official_state_dict(source, windows, pretrained_windows))
    converted = convert(weights_in(content))
    assert converted.source == 'official'
    assert converted.weight_metadata.windows == tuple((w, w) for w in windows)
    assert converted.weight_metadata.pretrained_windows == tuple((p, p) for p in pretrained_windows)
    assert {key.split('.')[-1] for key in converted.dropped} == {
        'relative_coords_table',
        'relative_position_index',
        'attn_mask',
        'weight',
        'bias',
    }
    assert [key for key in converted.dropped if 'layers' not in key] == ['head.weight', 'head.bias']

    ours = SwinTransformerV2(SMALL, windows)
    ours.load_checkpoint(content, 'official')
    assert [stage.pretrained_window for stage in ours.stages] == [(p, p) for p in pretrained_windows]
    image = torch.randn(1, 3, 70, 90)
    with torch.no_grad():
        assert torch.equal(ours.eval()(image)[3], source.eval()(image)[3])


def test_pretrained_windows_are_recovered_from_coordinate_tables():
    def table(*axes):
        sides = [torch.arange(1.0 - w, w) * 8 / (p - 1) for w, p in axes]
        grid = torch.stack(torch.meshgrid(*sides, indexing='ij'), -1)[None]
        return grid.sign() * torch.log2(1 + grid.abs()) / 3

    for axes in (((8, 6), (20, 14)), ((56, 12), (3, 3)), ((1, 5), (7, 7))):
        window, pretrained_window = windows_of_coordinates(table(*axes))
        assert window == (axes[0][0], axes[1][0])
        assert pretrained_window == (axes[0][1] if axes[0][0] > 1 else 1, axes[1][1])
    with pytest.raises(InputError, match='which no pretrained window gives'):
        windows_of_coordinates(table((8, 8), (8, 8)) * 1.03)


def simmim(weights):
    return dict(
        model={
            **{f'encoder.{key}': value for key, value in weights.items()},
            'encoder.mask_token': torch.ones(1),
            'decoder.0.weight': torch.ones(1),
        }
    )


@pytest.mark.parametrize(
    'wrap',
    [
        simmim,
        lambda weights: {f'module.{key}': value for key, value in weights.items()},
        lambda weights: dict(state_dict_ema=weights, state_dict=None, epoch=3),
    ],
)
def test_wrapped_checkpoints_convert_like_plain_ones(wrap):
    source = SwinTransformerV2(SMALL, 8)
    official = official_state_dict(source, (8,) * 4, (8,) * 4)
    converted = convert(weights_in(wrap(official)))
    plain = convert(weights_in(official))
    assert (
        converted.weights.keys() - {'mask_token'} == plain.weights.keys() and converted.weight_metadata == plain.weight_metadata
    )


def test_own_checkpoints_convert_with_and_without_a_backbone_prefix():
    for position_bias in ('log_cpb', 'table'):
        source = randomise(SwinTransformerV2(SMALL, [7, (3, 5), 4, 2], position_bias=position_bias))
        state = source.state_dict()
        inside = {f'backbone.{key}': value for key, value in state.items()}
        for checkpoint in (state, dict(state_dict={**inside, 'decode_head.weight': torch.ones(1)})):
            converted = convert(weights_in(checkpoint))
            assert converted.source == 'mmvitscale' and converted.weight_metadata == source.weight_metadata
            assert converted.weight_metadata.windows == ((7, 7), (3, 5), (4, 4), (2, 2))
            assert converted.state_dict().keys() == state.keys()
        assert converted.dropped == ['decode_head.weight']


def test_extra_norms_and_mlp_ratio_are_inferred_from_the_weights():
    source = SwinTransformerV2({**SMALL, 'extra_norm_every': 2, 'mlp_ratio': 3}, 4)
    assert sizes_of(source.state_dict()) == source.arch


def broken(**changes):
    """An official checkpoint with some entries replaced, or removed where the value is None."""
    state = official_state_dict(SwinTransformerV2(SMALL, 8), (8,) * 4, (8,) * 4)
    state.update({key.replace('__', '.'): value for key, value in changes.items()})
    return {key: value for key, value in state.items() if value is not None}


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
def test_windows_are_recovered_from_half_precision_coordinate_tables(dtype):
    """All published windows and the ones of high resolution, cast as whole checkpoints are."""
    for window, pretrained_window in (
        (8, 8),
        (16, 16),
        (16, 12),
        (24, 12),
        (12, 6),
        (32, 12),
        (40, 12),
        (56, 12),
        (7, 7),
        (14, 12),
    ):
        state = official_state_dict(
            SwinTransformerV2(dict(embed_dims=4, depths=(1,), num_heads=(1,)), [8]), (window,), (pretrained_window,)
        )
        table = state['layers.0.blocks.0.attn.relative_coords_table'].to(dtype)
        assert windows_of_coordinates(table) == ((window, window), (pretrained_window, pretrained_window))
        assert windows_of_coordinates(table.float()) == ((window, window), (pretrained_window, pretrained_window))


def test_unconvertible_checkpoints_are_refused_with_the_reason():
    for checkpoint, message in (
        (broken(surprise=torch.ones(1)), '1 of its keys are not known there: surprise'),
        ({'layers.0.blocks.0.attn.relative_position_bias_table': torch.ones(1)}, 'this is a SwinV1 checkpoint'),
        ({'conv1.weight': torch.ones(1)}, 'no SwinV2 or DeepViT of a known format.*are called conv1.weight'),
        ({}, 'it holds no weights'),
        (
            broken(layers__2__blocks__1__attn__relative_coords_table=torch.zeros(1, 31, 31, 2)),
            'the blocks of stage 2 have different relative_coords_tables',
        ),
        (broken(layers__3__blocks__0__attn__relative_coords_table=torch.zeros(0, 15, 15, 2)), r'has the shape \(0, 15'),
        (broken(layers__3__blocks__0__attn__relative_coords_table=torch.zeros(1, 15, 15, 2).int()), 'the type torch.int32'),
        ({**broken(), 'module.head.bias': torch.ones(1)}, 'it holds weights twice'),
        ({**broken(), **SwinTransformerV2(SMALL, 8).state_dict()}, 'the formats of mmvitscale and official are mixed'),
        (
            {f'{name}.{key}': value for name in ('student', 'teacher') for key, value in broken().items()},
            'behind the prefixes student., teacher.; choose one with prefix',
        ),
    ):
        with pytest.raises(InputError, match=message):
            convert(weights_in(checkpoint))
    both = {f'{name}.{key}': value for name in ('student', 'teacher') for key, value in broken().items()}
    assert convert(weights_in(both), 'student').prefix == 'student.'


def test_incomplete_checkpoints_are_refused_and_complete_ones_accepted():
    check_complete(convert(weights_in(broken())))
    half = dict(list(broken().items())[::2])
    for checkpoint, message in (
        (broken(layers__1__blocks__1__norm1__weight=None), r'1 missing keys \(stages.1.blocks.1.norm1.weight\)'),
        (
            broken(layers__1__blocks__1__norm1__weight=torch.ones(17)),
            r'1 size mismatches \(stages.1.blocks.1.norm1.weight is \(17,\) instead of \(16,\)\)',
        ),
        (broken(patch_embed__proj__weight=None), 'incomplete'),
        (half, r'67 missing keys \(patch_embed.proj.bias'),
    ):
        with pytest.raises(InputError, match=message):
            check_complete(convert(weights_in(checkpoint)))


def test_backbone_files_of_hugging_face_have_norms_of_stages():
    """Those of ``Swinv2Backbone``: the encoder without ``swinv2.``, no norm behind it, and one for each output."""
    model, _ = reference_models.huggingface(SWIN_V2.archs['tiny'], 64, (8, 8, 8, 2), None)
    randomise(model)
    weights = {key.removeprefix('swinv2.'): value for key, value in model.state_dict().items() if 'layernorm.' not in key}
    norms = {
        f'hidden_states_norms.stage{i + 1}.{leaf}': torch.randn(96 * 2**i) for i in range(4) for leaf in ('weight', 'bias')
    }
    stem = {f'hidden_states_norms.stem.{leaf}': torch.randn(96) for leaf in ('weight', 'bias')}
    ours = SwinTransformerV2('tiny', (8, 8, 8, 2))
    matched = ours.load_checkpoint({**weights, **norms, **stem}, 'backbone.safetensors')
    assert matched.converted.source == 'Hugging Face' and not matched.missing
    assert sorted(matched.unexpected)[:2] == sorted(stem)
    for i in range(4):
        assert torch.equal(ours.out_norms[str(i)].weight, norms[f'hidden_states_norms.stage{i + 1}.weight'])
        assert torch.equal(ours.out_norms[str(i)].bias, norms[f'hidden_states_norms.stage{i + 1}.bias'])
    assert ours.load_checkpoint(weights, 'no-norms.safetensors').missing[0] == 'out_norms.0.weight'
