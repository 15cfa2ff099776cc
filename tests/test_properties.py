"""Properties that hold for every input, tried on inputs that nobody thought of (hypothesis).

Examples are derived from the tests' names, so that each run sees the same; what once failed is written down as an example.
"""

from math import ceil

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers

from mmvitscale.checkpoints.convert import convert, weights_in
from mmvitscale.checkpoints.metadata import STATE_DICT_KEY, WindowMetadata
from mmvitscale.datasets.seeded_batches import SeededBatches
from mmvitscale.errors import InputError
from mmvitscale.models import DeepViT, SwinTransformerV2
from mmvitscale.models.swin_v2.windows import window_geometry, window_partition, window_reverse, window_starts
from tests.helpers import brute_force
from tests.helpers.layouts import official_deepvit
from tests.helpers.official_layout import official_state_dict
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.unit

# Constants of all local code would be read first: of timm as well, where it lies beside the environment. 20 seconds.
providers.is_local_module_file = lambda path: False
settings.register_profile(
    'here',
    deadline=None,
    derandomize=True,
    max_examples=40,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile('here')

CPU = torch.device('cpu')
lengths = st.integers(1, 40)
windows = st.integers(1, 24)


@given(lengths, windows, st.booleans())
@example(1, 24, True)
@example(40, 1, True)
def test_windows_partition_an_axis_without_gaps_or_overlap(length, window, shifted):
    """Without gaps, without overlap, no piece longer than a window, and each piece one cell of the definition."""
    pieces = sorted(
        (start, start + size) for size, starts in window_starts(length, window, shifted).items() for start in starts
    )
    assert [stop for _, stop in pieces[:-1]] == [start for start, _ in pieces[1:]]
    assert pieces[0][0] == 0 and pieces[-1][1] == length
    for start, stop in pieces:
        assert stop - start <= window
        assert len({brute_force.cell(position, length, window, shifted) for position in range(start, stop)}) == 1


@given(st.integers(1, 3), lengths, lengths, windows, windows, st.booleans())
def test_window_reverse_inverts_partition_and_each_token_occurs_once(batch, height, width, tall, wide, shifted):
    geometry = window_geometry(batch, (height, width), (tall, wide), shifted, CPU)
    x = torch.arange(batch * height * width, dtype=torch.float32).view(batch, height, width, 1)
    tokens = window_partition(x, geometry)
    assert sorted(tokens.flatten().tolist()) == list(range(batch * height * width))
    assert torch.equal(window_reverse(tokens, geometry, (height, width)), x)
    assert sum(group.tokens for group in geometry.groups) == batch * height * width


archs = st.integers(1, 4).flatmap(
    lambda stages: st.tuples(
        st.sampled_from([4, 8, 12]),
        st.lists(st.integers(1, 3), min_size=stages, max_size=stages),
        st.lists(st.sampled_from([1, 2, 4]), min_size=stages, max_size=stages),
    )
)


@given(archs, windows, st.integers(1, 70), st.integers(1, 70))
@settings(max_examples=25)
def test_images_of_any_size_give_finite_outputs_of_the_right_shape(arch, window, height, width):
    dim, depths, heads = arch
    backbone = SwinTransformerV2(dict(embed_dims=dim, depths=depths, num_heads=heads), window).eval()
    with torch.no_grad():
        outputs = backbone(torch.rand(1, 3, height, width))
    assert len(outputs) == len(depths)
    for i, out in enumerate(outputs):
        assert out.shape == (1, dim * 2**i, *(ceil(ceil(side / 4) / 2**i) for side in (height, width)))
        assert torch.isfinite(out).all()


@given(archs, st.integers(1, 12), st.integers(1, 12))
@settings(max_examples=25)
def test_saving_and_loading_restores_parameters_and_metadata(arch, window, pretrained_window):
    """Parameters, windows and pretrained windows, whatever the sizes."""
    dim, depths, heads = arch
    sizes = dict(embed_dims=dim, depths=depths, num_heads=heads)
    source = randomise(SwinTransformerV2(sizes, window, pretrained_window))
    twin = SwinTransformerV2(sizes, window)
    twin.load_state_dict(source.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), twin.parameters()))
    assert twin.weight_metadata == source.weight_metadata
    assert WindowMetadata.decode(source.weight_metadata.encode()) == source.weight_metadata


@given(
    st.lists(st.integers(1, 3), min_size=4, max_size=4),
    st.integers(2, 12),
    st.booleans(),
    st.sampled_from(['', 'backbone.', 'module.', 'encoder.backbone.']),
)
@settings(max_examples=20)
def test_the_official_layout_is_converted_exactly(depths, window, nested, prefix):
    """Behind any prefix, under any of the names that files put their weights under."""
    sizes = dict(embed_dims=8, depths=depths, num_heads=(1, 1, 2, 2))
    source = randomise(SwinTransformerV2(sizes, window))
    state = {prefix + key: value for key, value in official_state_dict(source, (window,) * 4, (window,) * 4).items()}
    converted = convert(weights_in(dict(model=state) if nested else state))
    own = source.state_dict()
    assert converted.family == 'SwinV2' and not set(converted.weights) - set(own)
    for key, value in converted.weights.items():
        assert torch.equal(value, own[key]), key


@given(st.integers(1, 4), st.integers(1, 3), st.sampled_from([64, 96, 128]))
@settings(max_examples=12)
def test_official_deepvit_weights_load_exactly(depth, re_attention, side):
    sizes = dict(embed_dims=12, depth=depth, re_attention=min(re_attention, depth), num_heads=3)
    source = randomise(DeepViT(sizes, side))
    twin = DeepViT(sizes, side)
    twin.load_state_dict(official_deepvit(source))
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), twin.parameters()))


MODEL = dict(embed_dims=8, depths=(1, 1), num_heads=(1, 1))
NAMES = sorted(SwinTransformerV2(MODEL, 4).state_dict())


@given(
    st.sets(st.sampled_from([name for name in NAMES if name != STATE_DICT_KEY]), min_size=1, max_size=3),
    st.sampled_from(['missing', 'resized', 'renamed']),
)
def test_a_damaged_state_dict_is_refused_and_changes_nothing(names, how):
    backbone = randomise(SwinTransformerV2(MODEL, 4))
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    state = {key: value.clone() for key, value in randomise(SwinTransformerV2(MODEL, 4)).state_dict().items()}
    for name in names:
        value = state.pop(name)
        if how == 'resized':
            state[name] = torch.cat((value, value))
        elif how == 'renamed':
            state[f'{name}x'] = value
    with pytest.raises((InputError, RuntimeError)):
        backbone.load_state_dict(state)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats() | st.just(torch.ones(2)),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
            max_leaves=8,
        ),
    )
)
@example({'state_dict': {'a': torch.ones(1), 'module.a': torch.ones(1)}})
@example({'model': {'model': {'model': {}}}})
def test_any_checkpoint_content_is_read_or_refused(content):
    try:
        weights = weights_in(content)
    except InputError:
        return
    assert weights and all(isinstance(value, torch.Tensor) for value in weights.values())
    with pytest.raises(InputError):
        convert(weights)


@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 80), st.booleans())
def test_resumed_batches_equal_the_uninterrupted_ones(samples, size, done, drop_last):
    """In a loop over passes: those that are left out and those that come are the undisturbed ones."""

    def batches():
        sampler = torch.utils.data.SequentialSampler(range(samples))
        return SeededBatches(torch.utils.data.BatchSampler(sampler, size, drop_last), 3, 0)

    if drop_last and samples < size:
        return
    whole, cut = batches(), batches()
    whole.begin(0, endless=True)
    cut.begin(0, done, endless=True)
    passes = done // len(whole) + 2
    expected = [(batch[:], batch.place) for _ in range(passes) for batch in whole][done:]
    found = [(batch[:], batch.place) for _ in range(2) for batch in cut]
    assert found == expected[: len(found)] and len(found) >= len(whole)
