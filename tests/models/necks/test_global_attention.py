import pytest
import torch
from mmengine.registry import MODELS

from mmvitscale.models import SwinTransformerV2
from mmvitscale.models.necks import GlobalAttention
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.unit


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('size', [(6, 6), (5, 9), (1, 1)])
def test_global_attention_changes_only_the_last_feature_map(size, with_cp):
    neck = randomise(
        MODELS.build(dict(type='mmvitscale.GlobalAttention', in_channels=16, num_heads=2, pretrained_window=6, with_cp=with_cp))
    )
    inputs = [torch.randn(2, 8, 3, 3), torch.randn(2, 16, *size, requires_grad=True)]
    first, last = neck(inputs)
    assert first is inputs[0] and last.shape == inputs[1].shape and not torch.allclose(last, inputs[1])
    last.square().sum().backward()
    assert all(p.grad is not None for p in neck.parameters())


def test_global_attention_starts_as_the_identity():
    x = torch.randn(1, 16, 4, 4)
    assert torch.equal(GlobalAttention(16, 2, 4)([x])[0], x)


def test_global_attention_equals_a_swin_block_with_a_single_window():
    """The same weights in a one-stage backbone with a window larger than the map."""
    neck = randomise(GlobalAttention(16, 2, 6)).eval()
    backbone = SwinTransformerV2(dict(embed_dims=16, depths=(1,), num_heads=(2,)), 64, 6, out_norm=False).eval()
    backbone.stages[0].blocks[0].load_state_dict(neck.block.state_dict())
    image = torch.randn(2, 3, 20, 36)
    before = backbone.patch_embed(image).permute(0, 3, 1, 2)
    with torch.no_grad():
        assert torch.allclose(neck([before])[0], backbone(image)[0], atol=1e-5)


def test_an_output_token_depends_on_every_input_token():
    neck = randomise(GlobalAttention(16, 2, 6)).eval()
    x = torch.randn(1, 16, 7, 9, requires_grad=True)
    neck([x])[0][0, :, 0, 0].sum().backward()
    assert (x.grad.abs().sum(1) > 0).all()
