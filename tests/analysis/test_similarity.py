import pytest
import torch
import torch.nn.functional as F
from randomise import randomise

from mmvitscale.analysis.recorder import recorded_attention
from mmvitscale.analysis.similarity import cross_layer_similarity, mean_similarity, similar_blocks
from mmvitscale.models import DeepViT


def test_similarity_is_the_mean_cosine_of_columns():
    maps = [torch.rand(2, 3, 5, 5) for _ in range(3)]
    similarity = cross_layer_similarity(maps)
    expected = torch.stack([F.cosine_similarity(maps[0][b, h, :, t], maps[2][b, h, :, t], dim=0)
                            for b in range(2) for h in range(3) for t in range(5)]).mean()
    assert similarity[0, 2] == pytest.approx(expected.item(), abs=1e-6)
    assert torch.allclose(similarity.diagonal(), torch.ones(3, dtype=torch.float64))
    assert torch.allclose(similarity, similarity.T)


def test_summaries():
    similarity = torch.tensor([[1, 0.95, 0.1], [0.95, 1, 0.2], [0.1, 0.2, 1]])
    assert similar_blocks(similarity) == 1 and similar_blocks(similarity, 0.15) == 2
    assert mean_similarity(similarity) == pytest.approx(1.25 / 3)


@pytest.mark.parametrize('attention', ['eager', 'sequential'])
def test_recording_sees_the_maps_in_use_and_changes_nothing(attention):
    arch = dict(embed_dims=12, depth=3, re_attention=2, num_heads=3)
    model = randomise(DeepViT(arch, 64, attention=attention)).eval()
    image = torch.randn(2, 3, 64, 64)
    expected = model(image)[0]
    with recorded_attention(model) as passes:
        assert torch.equal(model(image)[0], expected)
        model(image[:, :, :32])
    model(image)
    assert [[tuple(block.shape) for block in maps] for maps in passes] == [[(2, 3, 17, 17)] * 3, [(2, 3, 9, 9)] * 3]
    assert torch.allclose(passes[0][0].sum(-1), torch.ones(2, 3, 17))  # plain: rows of a softmax
