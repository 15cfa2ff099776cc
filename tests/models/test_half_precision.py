"""16 bits on inputs for which other implementations were reported to give NaN (mmpretrain#1862 and its like)."""

import pytest
import torch

from mmvitscale.models import DeepViT, SwinTransformerV2
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.unit

INPUTS = {
    'black': lambda: torch.zeros(2, 3, 64, 48),
    'one colour': lambda: torch.full((2, 3, 64, 48), 2.5),
    'a single pixel': lambda: torch.rand(2, 3, 1, 1),
    'a map of one token': lambda: torch.rand(2, 3, 4, 4),
    'one bright pixel': lambda: torch.zeros(2, 3, 33, 40).index_put(
        (torch.tensor(0), torch.tensor(1), torch.tensor(5), torch.tensor(7)), torch.tensor(100.0)
    ),
    'noise': lambda: torch.randn(2, 3, 40, 72),
}


def backbones(trained):
    swin = SwinTransformerV2(dict(embed_dims=16, depths=(2, 2), num_heads=(2, 4)), 4, drop_path_rate=0.0)
    table = SwinTransformerV2(dict(embed_dims=16, depths=(2,), num_heads=(2,)), 4, drop_path_rate=0.0, position_bias='table')
    vit = DeepViT(dict(embed_dims=24, depth=3, re_attention=2, num_heads=3), 64, drop_path_rate=0.0)
    return [randomise(model) if trained else model for model in (swin, table, vit)]


@pytest.mark.parametrize('image', INPUTS)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('trained', [False, True], ids=['new', 'trained'])
def test_half_precision_outputs_and_gradients_are_finite(image, dtype, trained):
    for model in backbones(trained):
        for training in (False, True):
            model.train(training)
            x = INPUTS[image]().requires_grad_()
            with torch.autocast('cpu', dtype=dtype):
                outputs = model(x)
            sum(out.float().square().mean() for out in outputs).backward()
            assert all(torch.isfinite(out).all() for out in outputs)
            grads = [p.grad for p in model.parameters() if p.grad is not None] + [x.grad]
            assert len(grads) > 5 and all(torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_zero_queries_and_keys_give_finite_outputs_and_gradients(dtype):
    """A token whose query and key are zero has no direction: the weights of its queries and keys are gone."""
    for model in backbones(False)[:2]:
        for block in model.transformer_blocks():
            torch.nn.init.zeros_(block.attn.qkv.weight)
        with torch.autocast('cpu', dtype=dtype):
            outputs = model(torch.zeros(1, 3, 32, 32))
        sum(out.float().sum() for out in outputs).backward()
        assert all(torch.isfinite(out).all() for out in outputs)
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
