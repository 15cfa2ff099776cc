import pytest
import torch
import torch.nn.functional as F

from mmvitscale.analysis.similarity import (
    NeighbourSimilarity,
    collapsed_blocks,
    cross_layer_similarity,
    feature_similarity,
    head_diversity,
    mean_similarity,
    similarity_to_before,
    similarity_to_last,
)

pytestmark = pytest.mark.unit

NAN = float('nan')


def test_equal_maps_have_similarity_one_and_orthogonal_maps_zero():
    one = torch.eye(4).expand(2, 3, 4, 4)
    other = one.roll(1, dims=-2)
    similarity = cross_layer_similarity([one, one, other])
    assert similarity.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert collapsed_blocks(similarity) == 1 and mean_similarity(similarity) == pytest.approx(1 / 3)


def test_similarity_is_the_mean_cosine_of_columns():
    maps = [torch.rand(2, 3, 5, 5) for _ in range(3)]
    similarity = cross_layer_similarity(maps)
    expected = torch.stack(
        [
            F.cosine_similarity(maps[0][b, h, :, t], maps[2][b, h, :, t], dim=0)
            for b in range(2)
            for h in range(3)
            for t in range(5)
        ]
    ).mean()
    assert similarity[0, 2] == pytest.approx(expected.item(), abs=1e-6)
    assert torch.allclose(similarity.diagonal(), torch.ones(3, dtype=torch.float64))
    assert torch.allclose(similarity, similarity.T)


def test_windows_are_weighted_by_columns_and_unequal_shapes_give_nan():
    large, small = torch.rand(2, 3, 4, 4), torch.rand(1, 3, 2, 2)
    orthogonal = torch.eye(2).expand(1, 3, 2, 2)
    similarity = cross_layer_similarity([[large, orthogonal], [large, orthogonal.flip(-2)], [large], [small]])
    assert similarity[0, 1] == pytest.approx(24 / 30)  # 24 columns equal, 6 not at all
    assert similarity[0, 2:].isnan().all() and similarity[2, 3].isnan()
    assert torch.equal(similarity_to_before(similarity).isnan(), torch.tensor([True, False, True, True]))
    neighbours = NeighbourSimilarity()
    assert [neighbours.add(maps) for maps in ([large], [small], [large])] == [None, None, pytest.approx(1)]


def test_similar_blocks_and_mean_similarity_skip_nan_entries():
    similarity = torch.tensor([[1, 0.95, 0.1], [0.95, 1, 0.2], [0.1, 0.2, 1]])
    assert collapsed_blocks(similarity) == 1 and collapsed_blocks(similarity, 0.15) == 2
    assert mean_similarity(similarity) == pytest.approx(1.25 / 3)
    skipping = torch.tensor([[1, NAN, 0.95], [NAN, 1, NAN], [0.95, NAN, 1]])
    assert collapsed_blocks(skipping) == 1 and mean_similarity(skipping) == pytest.approx(0.95)


def test_features_are_compared_token_by_token():
    features = [torch.randn(2, 4, 6) for _ in range(2)] + [torch.randn(2, 1, 12)]
    similarity = feature_similarity(features)
    expected = F.cosine_similarity(features[0], features[1], dim=-1).mean().item()
    assert similarity[0, 1] == pytest.approx(expected, abs=1e-6) and similarity[0, 2].isnan()
    assert similarity_to_last(similarity).tolist() == pytest.approx([expected, 1, 1], abs=1e-6)


def test_identical_heads_have_diversity_zero_and_orthogonal_heads_one():
    one = torch.rand(2, 1, 4, 4)
    assert head_diversity(one.expand(2, 3, 4, 4)) == pytest.approx(0, abs=1e-9)
    orthogonal = torch.stack([torch.eye(4).roll(i, 0) for i in range(3)])[None]
    assert head_diversity([orthogonal, orthogonal]) == pytest.approx(1)
    maps = torch.rand(2, 3, 5, 5)
    pairs = [F.cosine_similarity(maps[:, g], maps[:, h], dim=-2).mean() for g in range(3) for h in range(3) if g != h]
    assert head_diversity(maps) == pytest.approx(1 - torch.stack(pairs).mean().item(), abs=1e-6)
    assert head_diversity(one) is None
