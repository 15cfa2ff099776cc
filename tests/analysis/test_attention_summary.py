import pytest
import torch

from mmvitscale.analysis.attention_summary import summarised_attention
from mmvitscale.analysis.recorder import recorded_attention
from mmvitscale.analysis.similarity import cross_layer_similarity
from mmvitscale.models import DeepViT, SwinTransformerV2
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.unit


def test_summary_averages_over_passes_and_removes_its_hooks():
    model = randomise(DeepViT(dict(embed_dims=12, depth=3, re_attention=2, num_heads=3), 64)).eval()
    images = [torch.randn(1, 3, 64, 64), torch.randn(1, 3, 32, 64)]
    with torch.no_grad(), recorded_attention(model) as passes:
        for image in images:
            model(image)
    expected = sum(cross_layer_similarity([block.groups for block in maps]) for maps in passes) / 2
    with torch.no_grad(), summarised_attention(model) as summary:
        for image in images:
            model(image)
    assert summary.passes == 2 and torch.allclose(summary.mean('maps'), expected)
    assert len(model._forward_hooks) == 0
    result = summary.result(threshold=-1)
    assert result['collapsed_blocks'] == 2 and result['to_before'][0] is None
    assert result['amplitude'] == pytest.approx(summary.mean('amplitude').tolist()) and min(result['attention_distance']) > 0


def test_summary_covers_selected_layers_with_none_where_undefined():
    model = randomise(SwinTransformerV2(dict(embed_dims=8, depths=(2, 2), num_heads=(1, 2)), 4)).eval()
    with torch.no_grad(), summarised_attention(model, [0, 1, 3]) as summary:
        model(torch.randn(1, 3, 32, 32))
    result = summary.result()
    assert result['names'] == ['stages.0.blocks.0', 'stages.0.blocks.1', 'stages.1.blocks.1']
    assert result['feature_similarity'][0][2] is None and result['feature_similarity'][0][1] is not None
    assert result['head_diversity'][:2] == [None, None] and result['head_diversity'][2] > 0
