"""Statistics of Re-attention re-estimated."""

import pytest
import torch

from mmvitscale.analysis.map_variance import means_of, recalibrate, recorded_variances
from mmvitscale.checkpoints.metadata import STATE_DICT_KEY
from mmvitscale.errors import InputError
from mmvitscale.models import DeepViT
from mmvitscale.models.layers.padding import with_validity
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.unit

VIT = dict(embed_dims=12, depth=3, re_attention=2, num_heads=3)


def mixed_maps(attn, x):
    q, k, _ = attn.qkv(x).unflatten(2, (3, 3, 4)).permute(2, 0, 3, 1, 4)
    return attn.reatten_matrix(torch.softmax(q @ k.mT / 2, -1))


def recorded(model, sides, count=2):
    torch.manual_seed(1)
    inputs = []
    hook = model.blocks[1].attn.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    with recorded_variances(model) as found, torch.no_grad():
        for side in sides:
            for _ in range(count):
                model(torch.randn(1, 3, side, side))
    hook.remove()
    return found, inputs


def test_recalibration_sets_running_statistics_to_those_of_the_images():
    model = randomise(DeepViT(VIT, 64, reatten_statistics='running')).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found, inputs = recorded(model, [96])
    recalibrate(model, found)
    maps = torch.cat([mixed_maps(model.blocks[1].attn, x) for x in inputs])
    norm = model.blocks[1].attn.var_norm
    assert torch.allclose(norm.running_mean, maps.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(norm.running_var, maps.var((0, 2, 3), unbiased=False), rtol=1e-3)
    assert model.weight_metadata.tokens == (0, 37, 37) and model.blocks[1].attn.statistics == 'running'
    after = model.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed and all('var_norm.running' in key or key == STATE_DICT_KEY for key in changed if 'token_law' not in key)


def test_recalibration_fits_exponents_and_statistics_from_several_sizes():
    model = DeepViT(VIT, 64).eval()
    law = torch.tensor([1.2, 1.5, 1.8])
    found = {f'blocks.{i}.attn': [(n, 0.01 * (n / 17) ** -law) for n in (17, 37, 65)] for i in (1, 2)}
    recalibrate(model, found)
    attn = model.blocks[2].attn
    assert torch.allclose(attn.token_law.exponent(), law, atol=0.06)
    assert torch.allclose(attn.var_norm.running_var, torch.full((3,), 0.01), rtol=0.06)
    assert model.weight_metadata.tokens == (0, 17, 17)
    assert list(means_of(found['blocks.1.attn'])) == [17, 37, 65]


def test_recalibration_refuses_mixed_token_counts_and_missing_images():
    model = DeepViT(VIT, 64, reatten_statistics='running').eval()
    with pytest.raises(InputError, match='2 numbers of tokens found in blocks.1.attn'):
        recalibrate(model, recorded(model, [64, 96])[0])
    with pytest.raises(InputError, match='no image'):
        recalibrate(model, recorded(model, [])[0])
    with pytest.raises(InputError, match='no Re-attention'):
        recalibrate(torch.nn.Linear(1, 1), {})


def test_padding_tokens_are_excluded_and_one_size_keeps_the_exponents():
    model = randomise(DeepViT(VIT, 64, window_size=3, global_blocks=[2])).eval()
    with recorded_variances(model) as found, torch.no_grad():
        model(with_validity(torch.randn(1, 3, 96, 96), [(96, 48)]))
    assert {n for n, _ in found['blocks.1.attn']} == {10} and [n for n, _ in found['blocks.2.attn']] == [19]
    law = model.blocks[2].attn.token_law
    law.moments[1].fill_(-15.0)
    law.tokens.copy_(torch.tensor([1.0, 0.0, 10.0]))
    before = law.exponent()
    recalibrate(model, found)
    assert torch.equal(law.exponent(), before)
