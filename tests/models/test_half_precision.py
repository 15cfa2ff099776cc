"""16 bits on inputs for which other implementations were reported to give NaN (mmpretrain#1862 and its like)."""

import copy

import pytest
import torch

from mmvitscale.engine.runner import compile_blocks
from mmvitscale.models import DeepViT, SwinTransformerV2
from mmvitscale.models.deepvit.re_attention import ReAttention
from mmvitscale.models.deepvit.windowed_attention import attend_in_windows
from mmvitscale.models.swin_v2.windows import window_geometry
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


@pytest.mark.parametrize('statistics', ['token_invariant', 'running'])
@pytest.mark.parametrize('masked', [False, True])
def test_the_sum_of_values_of_many_tokens_does_not_overflow(statistics, masked):
    """2049 tokens with values of 40 sum up to 81960, which float16 does not hold."""
    attn = randomise(ReAttention(4, 2, statistics=statistics, trained_tokens=2049)).eval()
    with torch.no_grad():
        attn.qkv.weight.zero_()
        attn.qkv.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 1.0] * 2 + [40.0] * 4))
        attn.var_norm.bias.copy_(torch.tensor([0.0, 1e-4]))
    x = torch.randn(1, 2049, 4)
    mask = torch.ones(1, 2049, dtype=torch.bool) if masked else None
    with torch.no_grad():
        found = attn.half()(x.half(), mask)
        expected = attn.float()(x.half().float(), mask)
    assert torch.isfinite(found).all() and torch.allclose(found.float(), expected, rtol=0.02, atol=0.02)


def test_the_class_token_of_many_windows_does_not_overflow():
    """Its mean over 1024 windows of about 100 each is finite, where the sum is not."""
    geometry = window_geometry(1, (64, 64), (2, 2), False, torch.device('cpu'))
    x = torch.full((1, 1 + 64 * 64, 4), 100.0, dtype=torch.float16)
    found = attend_in_windows(torch.nn.Identity(), x, geometry)
    assert found.dtype == torch.float16 and torch.equal(found, x)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_a_backward_pass_inside_autocast_equals_one_outside(dtype):
    for model in backbones(True):
        image, grads = torch.randn(2, 3, 64, 48), []
        for inside in (False, True):
            model.zero_grad()
            with torch.autocast('cpu', dtype=dtype):
                loss = sum(out.float().square().mean() for out in model(image))
                if inside:
                    loss.backward()
            if not inside:
                loss.backward()
            grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        for one, other in zip(*grads, strict=True):
            assert torch.allclose(one, other, atol=0.05 * one.abs().max())


@pytest.mark.parametrize(
    'index',
    [
        pytest.param(0, marks=pytest.mark.slow, id='SwinV2'),  # a minute
        pytest.param(2, marks=pytest.mark.integration, id='DeepViT'),
    ],
)
def test_compiled_blocks_train_in_bfloat16(index):
    """``compile=dict(target='blocks')`` with ``--amp``: the gradients are those without a compiler."""
    model = backbones(True)[index]
    image, grads = torch.randn(2, 3, 64, 48), []
    for compiled in (False, True):
        own = copy.deepcopy(model)
        if compiled:
            compile_blocks(own, dict(target='blocks', backend='aot_eager'))
        try:
            with torch.autocast('cpu', dtype=torch.bfloat16):
                loss = sum(out.float().square().mean() for out in own(image))
            loss.backward()
        finally:
            torch._dynamo.reset()
        grads.append([p.grad for p in own.parameters() if p.grad is not None])
    for one, other in zip(*grads, strict=True):
        assert torch.allclose(one, other, atol=0.05 * one.abs().max())
