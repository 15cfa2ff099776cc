"""The options for the papers' own comparisons: pre-norm and dot-product attention, post-norm on a plain ViT."""

import pytest
import torch

from mmvitscale.checkpoints.convert import convert, weights_in
from mmvitscale.errors import InputError
from mmvitscale.models import DeepViT, SwinTransformerV2
from mmvitscale.models.build_from_weights import check_complete
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.unit

ARCH = dict(embed_dims=8, depths=(2, 2), num_heads=(1, 2))
VIT = dict(embed_dims=12, depth=3, re_attention=1, num_heads=3, residual_scale=0.5)
V1 = dict(block_norm='pre', attention_type='dot_product', position_bias='table')
IMAGE = torch.rand(2, 3, 36, 50)


def test_a_swin_v1_style_model_trains_and_reloads_exactly():
    """V1 in all three: blocks and merging, attention, position bias."""
    model = randomise(SwinTransformerV2(ARCH, 4, **V1)).train()
    sum(out.square().mean() for out in model(IMAGE)).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert model.stages[1].downsample.norm.normalized_shape == (32,)  # before the linear map
    twin = SwinTransformerV2(ARCH, 4, **V1).eval()
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(IMAGE)[1], model.eval()(IMAGE)[1])
    check_complete(convert(weights_in(model.state_dict())))


@pytest.mark.parametrize('options', [dict(block_norm='pre'), dict(attention_type='dot_product')])
def test_weights_of_another_block_norm_or_attention_type_are_refused(options):
    model = SwinTransformerV2(ARCH, 4, **options)
    for source, target in ((model, SwinTransformerV2(ARCH, 4)), (SwinTransformerV2(ARCH, 4), model)):
        with pytest.raises(InputError, match='(missing|unexpected) keys'):
            target.load_state_dict(source.state_dict())
    single = dict(embed_dims=8, depths=(2,), num_heads=(1,))  # no merging whose shape would show it
    with pytest.raises(InputError, match='norm1'):
        SwinTransformerV2(single, 4).load_state_dict(SwinTransformerV2(single, 4, block_norm='pre').state_dict())


def test_a_post_norm_vit_starts_as_identity_and_equals_its_formula():
    model = DeepViT(VIT, 48, block_norm='post', drop_path_rate=0.0)
    tokens = torch.randn(2, 10, 12)
    assert torch.equal(model.blocks[0](tokens), tokens)  # starts as the identity
    block = randomise(model).eval().blocks[0]
    after = tokens + block.post_norm1(block.attn(tokens * 0.5)) / 0.5
    assert torch.allclose(block(tokens), after + block.post_norm2(block.mlp(after * 0.5)) / 0.5, atol=1e-5)
    check_complete(convert(weights_in(model.state_dict())))
    with pytest.raises(InputError, match='post_norm1'):
        DeepViT(VIT, 48).load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: SwinTransformerV2(ARCH, 4, block_norm='middle'), "unknown block_norm 'middle'; choose one of post, pre"),
        (lambda: SwinTransformerV2(ARCH, 4, similarity='l2'), "unknown attention_type 'l2'; choose one of cosine, dot_product"),
        (lambda: DeepViT(VIT, 48, block_norm='none'), "unknown block_norm 'none'; choose one of pre, post"),
        (lambda: DeepViT(VIT, 48, out_type='map'), "unknown out_type 'map'; choose one of featmap, cls_token"),
    ],
)
def test_unknown_options_are_refused_with_the_choices(make, message):
    with pytest.raises(InputError, match=message):
        make()
