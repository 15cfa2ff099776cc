import copy

import pytest
import torch
from torch import nn

from mmvitscale.analysis.attention_distance import attention_distance
from mmvitscale.analysis.recorder import blocks_of, recorded_attention, recorded_features
from mmvitscale.errors import InputError
from mmvitscale.models import DeepViT, SwinTransformerV2
from mmvitscale.models.swin_v2.windows import window_partition
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.unit

VIT = dict(embed_dims=12, depth=3, re_attention=2, num_heads=3)
SWIN = dict(embed_dims=8, depths=(2, 2), num_heads=(2, 4))


@pytest.mark.parametrize('attention', ['eager', 'sequential'])
def test_recording_sees_the_maps_in_use_and_changes_nothing(attention):
    model = randomise(DeepViT(VIT, 64, attention=attention)).eval()
    image = torch.randn(2, 3, 64, 64)
    expected = model(image)[0]
    with recorded_attention(model) as passes:
        assert torch.equal(model(image)[0], expected)
        model(image[:, :, :32])
    model(image)
    shapes = [[tuple(block.groups[0].shape) for block in maps] for maps in passes]
    assert shapes == [[(2, 3, 17, 17)] * 3, [(2, 3, 9, 9)] * 3]
    assert [block.size for block in passes[1]] == [(2, 4)] * 3
    assert torch.allclose(passes[0][0].groups[0].sum(-1), torch.ones(2, 3, 17))  # plain: rows of a softmax


@pytest.mark.parametrize('kernel', ['eager', 'fused', 'sequential'])
@pytest.mark.parametrize('attention_type', ['cosine', 'dot_product'])
def test_recorded_window_maps_times_v_equal_the_attention_output(kernel, attention_type):
    model = randomise(SwinTransformerV2(SWIN, 4, attention=kernel, attention_type=attention_type)).eval()
    block = model.stages[0].blocks[1]  # shifted
    seen = {}
    block.attn.register_forward_pre_hook(lambda module, inputs: seen.update(x=inputs[0], geometry=inputs[1]))
    block.attn.register_forward_hook(lambda module, inputs, output: seen.update(out=output))
    with torch.no_grad(), recorded_attention(model, [1]) as passes:
        model(torch.randn(2, 3, 40, 28))
    (maps,) = passes[0]
    assert maps.layer == 1 and maps.size == (10, 7) and maps.geometry is seen['geometry'] and not maps.class_token
    v = nn.functional.linear(seen['x'], block.attn.qkv.weight[16:], block.attn.v_bias).view(-1, 2, 4)
    outs, first = [], 0
    for group, shape in zip(maps.groups, maps.geometry.groups, strict=True):
        part = v[first : first + shape.tokens].view(shape.count, -1, 2, 4).transpose(1, 2)
        outs.append((group @ part).transpose(1, 2).reshape(-1, 8))
        first += shape.tokens
    assert torch.allclose(block.attn.proj(torch.cat(outs)), seen['out'], atol=1e-5)


def test_attention_of_a_query_is_zero_outside_its_window():
    model = randomise(SwinTransformerV2(SWIN, 4)).eval()
    with torch.no_grad(), recorded_attention(model, [0, 1]) as passes:
        model(torch.randn(1, 3, 40, 28))  # 10 x 7 tokens
    for maps, rows, columns in zip(passes[0], ((4, 8), (2, 6)), ((4, 7), (2, 6))):
        weights = maps.of_query(5, 5)
        inside = torch.zeros(10, 7, dtype=torch.bool)
        inside[slice(*rows), slice(*columns)] = True
        assert (weights[:, inside] > 0).all() and (weights[:, ~inside] == 0).all()
        assert torch.allclose(weights.sum((1, 2)), torch.ones(2))
        # The row of the token itself, found through the order of the windows.
        places = window_partition(torch.arange(70.0).view(1, 10, 7, 1), maps.geometry).flatten().tolist()
        row = places.index(5 * 7 + 5)
        first = 0
        for group, shape in zip(maps.groups, maps.geometry.groups, strict=True):
            if first <= row < first + shape.tokens:
                window, slot = divmod(row - first, group.shape[-1])
                assert torch.equal(weights[:, inside].sort(-1)[0], group[window, :, slot].sort(-1)[0])
            first += shape.tokens
    with pytest.raises(InputError, match=r'token \(10, 0\) found, but the map has 10 x 7'):
        maps.of_query(10, 0)


def test_a_vit_in_windows_is_recorded_window_by_window():
    model = randomise(DeepViT(VIT, 96, window_size=4, global_blocks=[2])).eval()
    with torch.no_grad(), recorded_attention(model) as passes:
        model(torch.randn(1, 3, 96, 64))  # 6 x 4 tokens
    windowed, _, whole = passes[0]
    assert [tuple(group.shape) for group in windowed.groups] == [(1, 3, 17, 17), (1, 3, 9, 9)]
    assert [tuple(group.shape) for group in whole.groups] == [(1, 3, 25, 25)]
    assert (windowed.of_query(5, 0)[:, :4] == 0).all() and (windowed.of_query(5, 0)[:, 4:] > 0).all()
    assert (whole.of_query(5, 0) != 0).all()
    assert torch.equal(whole.of_query(5, 2).flatten(1), whole.groups[0][0, :, 1 + 5 * 4 + 2, 1:])
    assert torch.equal(windowed.of_query(5, 2)[:, 4:].flatten(1), windowed.groups[1][0, :, 1 + 1 * 4 + 2, 1:])


def test_running_statistics_are_left_alone_in_training():
    one = randomise(DeepViT(VIT, 64)).train()
    other = copy.deepcopy(one)
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    expected = one(image)[0]
    torch.manual_seed(0)
    with recorded_attention(other) as passes:
        assert torch.equal(other(image)[0], expected)
    assert len(passes[0]) == 3
    for key, value in one.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key


def test_unknown_layers_and_models_without_our_backbone_are_refused():
    model = SwinTransformerV2(SWIN, 4)
    assert len(blocks_of(model)) == 4
    for layers in ([4], [0, -1]):
        with pytest.raises(InputError, match='but the backbone has the layers 0 to 3'), recorded_attention(model, layers):
            pass
    with pytest.raises(InputError, match='has no backbone of mmvitscale'), recorded_features(nn.Linear(1, 1)):
        pass


def test_a_callback_gets_maps_layer_by_layer_without_storing_them():
    model, layers = randomise(SwinTransformerV2(SWIN, 4)).eval(), []
    with torch.no_grad(), recorded_attention(model, each=lambda maps: layers.append(maps.layer)) as passes:
        model(torch.randn(1, 3, 32, 32))
    assert layers == [0, 1, 2, 3] and passes == [[]]


def test_features_are_what_the_blocks_return():
    model = randomise(DeepViT(VIT, 64, out_indices=[0, 1])).eval()
    with torch.no_grad(), recorded_features(model) as passes:
        outs = model(torch.randn(2, 3, 64, 64))
    for out, block in zip(outs, passes[0], strict=True):
        assert torch.equal(out.flatten(2).transpose(1, 2), block[:, 1:])


def test_attention_distance_is_the_weighted_mean():
    model = SwinTransformerV2(SWIN, 4).eval()
    with torch.no_grad(), recorded_attention(model, [0]) as passes:
        model(torch.randn(1, 3, 8, 16))  # one window of 2 x 4
    (maps,) = passes[0]
    maps.groups = [torch.full_like(maps.groups[0], 1 / 8)]
    places = [(y, x) for y in range(2) for x in range(4)]
    expected = sum(((a - c) ** 2 + (b - d) ** 2) ** 0.5 for a, b in places for c, d in places) / 64
    assert attention_distance(maps) == pytest.approx([expected] * 2)
    maps.groups = [torch.eye(8).expand(1, 2, 8, 8)]
    assert attention_distance(maps) == [0, 0]
    vit = DeepViT(VIT, 64).eval()
    with torch.no_grad(), recorded_attention(vit, [0]) as passes:
        vit(torch.randn(1, 3, 64, 64))
    looking_at_itself = torch.eye(17).expand(1, 3, 17, 17).clone()
    looking_at_itself[..., 0] = 5  # the class token has no place
    passes[0][0].groups = [looking_at_itself]
    assert attention_distance(passes[0][0]) == [0, 0, 0]
