import pytest
import torch
from mmengine.registry import MODELS

from mmvitscale.checkpoints.convert import convert, weights_in
from mmvitscale.checkpoints.metadata import STATE_DICT_KEY
from mmvitscale.checkpoints.pretrained import Pretrained
from mmvitscale.errors import InputError
from mmvitscale.models import DeepViT
from mmvitscale.models.build_from_weights import check_complete, describe_weights
from tests.helpers.layouts import official_deepvit
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.unit

SMALL = dict(embed_dims=12, depth=4, re_attention=2, num_heads=3)


def official(arch=SMALL, img_size=64):
    """A model, and its weights as the official code saves them: the same names, and a head."""
    model = randomise(DeepViT(arch, img_size))
    return model, official_deepvit(model)


@pytest.mark.parametrize('stem', ['linear', 'conv'])
def test_an_official_checkpoint_gives_the_same_features(stem, tmp_path):
    source, weights = official({**SMALL, 'stem': stem})
    torch.save(weights, tmp_path / 'deepvit.pth')
    ours = MODELS.build(
        dict(
            type='mmvitscale.DeepViT',
            arch={**SMALL, 'stem': stem},
            img_size=64,
            init_cfg=dict(type='mmvitscale.Pretrained', checkpoint=str(tmp_path / 'deepvit.pth')),
        )
    )
    ours.init_weights()
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(ours.eval()(image)[0], source.eval()(image)[0])
    converted = convert(weights_in(weights))
    assert converted.family == 'DeepViT' and converted.dropped == ['head.weight', 'head.bias']


def test_the_position_embedding_is_resized_to_the_models_grid(tmp_path):
    source, weights = official(img_size=64)
    torch.save(weights, tmp_path / 'deepvit.pth')
    ours = DeepViT(SMALL, (96, 160))
    Pretrained(tmp_path / 'deepvit.pth')(ours)
    assert ours.pos_embed.shape == (1, 61, 12)
    assert torch.equal(ours.pos_embed[:, 0], source.pos_embed[:, 0])
    maps = source.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    expected = torch.nn.functional.interpolate(maps, size=(6, 10), mode='bicubic', align_corners=False)
    assert torch.allclose(ours.pos_embed[0, 1:].T.unflatten(1, (6, 10)), expected[0], atol=1e-6)
    unknown = {key: value for key, value in ours.state_dict().items() if key != STATE_DICT_KEY}
    with pytest.raises(InputError, match='has 60 positions, which is no square grid.*img_size'):
        DeepViT(SMALL, 64).load_state_dict(unknown)


@pytest.mark.parametrize('name', ['deepvit-16b', 'deepvit-s', 'vit-16b'])
def test_deepvit_variants_are_recognised_from_their_weights(name):
    with torch.device('meta'):
        weights = DeepViT(name).state_dict()
    assert describe_weights(weights).startswith(name + ' ')


def test_mismatched_checkpoints_are_refused_with_the_reason(tmp_path):
    _, weights = official()
    ours = DeepViT(SMALL, 64)
    for change, message in (
        ({'surprise': torch.ones(1)}, '1 of its keys are not known there: surprise'),
        ({'blocks.1.surprise': torch.ones(1)}, '1 unexpected keys .blocks.1.surprise'),
        ({'blocks.1.norm1.weight': torch.ones(13)}, r'size mismatches.*\(13,\) instead of \(12,\)'),
        ({'blocks.0.attn.reatten_matrix.weight': torch.ones(1)}, '1 unexpected keys .blocks.0.attn.re'),
    ):
        with pytest.raises(InputError, match=message):
            ours.load_checkpoint({**weights, **change}, 'a.pth')
        with pytest.raises(InputError, match=message):
            check_complete(convert(weights_in({**weights, **change})))
    with pytest.raises(InputError, match='1 missing keys'):
        ours.load_checkpoint({key: value for key, value in weights.items() if key != 'blocks.3.mlp.fc2.bias'}, 'a.pth')
    torch.save(weights, tmp_path / 'a.pth')
    with pytest.raises(InputError, match='4 blocks, 2 with Re-attention.*5 blocks, 2 with'):
        Pretrained(tmp_path / 'a.pth')(DeepViT({**SMALL, 'depth': 5}, 64))
