import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmvitscale.errors import InputError
from mmvitscale.models.deepvit import kernels, re_attention
from mmvitscale.models.deepvit.kernels import _precise as re_attention_precise
from mmvitscale.models.deepvit.re_attention import ReAttention, SelfAttention
from mmvitscale.models.deepvit.re_attention_norm import frozen_statistics
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.unit


def make(head_dim, heads, dtype, transform_scale=False, statistics='running', tokens=1):
    module = randomise(ReAttention(heads * head_dim, heads, transform_scale, statistics=statistics, trained_tokens=tokens))
    nn.init.normal_(module.qkv.weight, std=3 * module.qkv.in_features**-0.5)  # maps far from uniform
    nn.init.normal_(module.var_norm.running_mean, std=0.1)
    nn.init.uniform_(module.var_norm.running_var, 0.5, 2.0)
    return module.to(dtype)


def official(module, x):
    """Re-attention from the formula alone, tensor by tensor."""
    heads, tokens = module.num_heads, x.shape[1]
    q, k, v = (
        F.linear(x, w, b).unflatten(2, (heads, -1)).transpose(1, 2)
        for w, b in zip(module.qkv.weight.chunk(3), module.qkv.bias.chunk(3))
    )
    maps = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, dim=-1)
    mixed = torch.einsum('hg,bgij->bhij', module.reatten_matrix.weight[:, :, 0, 0], maps)
    mixed = mixed + module.reatten_matrix.bias[:, None, None]
    norm = module.var_norm
    if module.training:
        mean, var = mixed.mean((0, 2, 3)), mixed.var((0, 2, 3), unbiased=False)
    else:
        mean, var = norm.running_mean, norm.running_var
    mixed = (mixed - mean[:, None, None]) / (var[:, None, None] + norm.eps).sqrt()
    mixed = mixed * norm.weight[:, None, None] + norm.bias[:, None, None]
    out = (mixed * module.out_scale) @ v
    return F.linear(out.transpose(1, 2).reshape(len(x), tokens, -1), module.proj.weight, module.proj.bias)


def results(module, x, forward=None):
    """Output, gradients of input and parameters, and running statistics after one pass."""
    module, x = copy.deepcopy(module), x.clone().requires_grad_()
    out = module(x) if forward is None else forward(module, x)
    # Weights of one sign: sums that cancel would compare nothing but rounding.
    (out * torch.linspace(0.5, 1.5, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    named = {'output': out, 'input': x.grad, **{name: p.grad for name, p in module.named_parameters()}}
    return {
        **named,
        'mean': module.var_norm.running_mean,
        'var': module.var_norm.running_var,
        'batches': module.var_norm.num_batches_tracked,
    }


def with_kernel(module, kernel):
    module = copy.deepcopy(module)
    module.kernel = kernel
    return module


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('transform_scale', [True, False])
def test_the_eager_kernel_equals_the_official_formula(training, transform_scale):
    module = make(5, 4, torch.float64, transform_scale).train(training)
    x = torch.randn(2, 11, 20, dtype=torch.float64)
    found, expected = results(with_kernel(module, 'eager'), x), results(module, x, official)
    for name in set(found) - {'mean', 'var', 'batches'}:
        assert torch.allclose(found[name], expected[name], rtol=1e-9, atol=1e-11), name


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize(
    'tokens, head_dim, rows, batch, heads',
    [
        (197, 32, 64, 2, 3),
        (197, 33, 50, 1, 3),
        (785, 35, 100, 1, 3),
        (50, 33, 1, 3, 3),
        pytest.param(4097, 33, 1000, 1, 2, marks=pytest.mark.slow),
        (50, 8, 1000, 1, 3),
        (2, 3, 1, 1, 3),
    ],
)
def test_sequential_equals_eager_and_the_formula(tokens, head_dim, rows, batch, heads, training, monkeypatch):
    monkeypatch.setitem(re_attention._CHUNK, 'cpu', rows * batch * heads * tokens)
    monkeypatch.setitem(re_attention._ROWS, 'cpu', 1)
    module = make(head_dim, heads, torch.float32).train(training)
    x = torch.randn(batch, tokens, heads * head_dim)
    # In float64; the two-pass variance of the formula is more exact than BatchNorm's own.
    eager = results(with_kernel(module, 'eager').double(), x.double())
    expected = {**results(module.double(), x.double(), official), **{name: eager[name] for name in ('mean', 'var', 'batches')}}
    for name in set(expected) - {'reatten_matrix.bias'}:
        limit = 1e-6 * expected[name].abs().max().item()
        assert torch.allclose(eager[name], expected[name], rtol=1e-6, atol=limit), name
    for dtype, tolerance in ((torch.float64, 1e-8), (torch.float32, 1e-4)):
        found = results(with_kernel(module, 'sequential').to(dtype), x.to(dtype))
        for name, tensor in expected.items():
            if training and name == 'reatten_matrix.bias':  # it cancels: rounding there, exactly zero here
                assert not found[name].any()
                continue
            assert (found[name] - tensor).abs().max() <= tolerance * tensor.abs().max(), (name, dtype)
    if training:
        assert not torch.equal(expected['mean'], module.var_norm.running_mean)


def test_gradients_equal_finite_differences():
    module = make(3, 2, torch.float64).train()
    module.kernel = 'sequential'
    x = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda x, *parameters: module(x), (x, *module.parameters()))


def test_every_parameter_gets_a_gradient():
    module = make(4, 3, torch.float32).train()
    module(torch.randn(2, 9, 12)).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any() or name == 'reatten_matrix.bias', name


@pytest.mark.parametrize('kernel', ['eager', 'sequential'])
def test_recomputation_keeps_the_statistics(kernel):
    module = make(4, 3, torch.float32).train()
    module.kernel, module.var_norm.momentum = kernel, 0.3
    before = copy.deepcopy(module.var_norm.state_dict())
    with frozen_statistics(module):
        module(torch.randn(2, 9, 12))
    assert all(torch.equal(value, before[name]) for name, value in module.var_norm.state_dict().items())
    assert module.var_norm.momentum == 0.3


def test_bfloat16_autocast_stays_close_to_float32():
    module = make(8, 4, torch.float32).train()
    x = torch.randn(2, 40, 32)
    exact = module(x)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = module(x)
    out.float().sum().backward()
    assert (out - exact).abs().max() < 0.05 * exact.abs().max()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_attention_dropout_is_eager_or_refused():
    with pytest.raises(InputError, match='attn_drop_rate 0.1 found with attention sequential'):
        ReAttention(12, 3, kernel='sequential', attn_drop=0.1)
    module = ReAttention(12, 3, kernel='auto', attn_drop=0.5)
    x = torch.randn(1, 30, 12)
    assert not torch.equal(module(x), module(x))
    assert torch.equal(module.eval()(x), module(x))


def test_a_single_value_cannot_be_normalised_in_training():
    module = make(4, 3, torch.float32)
    module.kernel = 'sequential'
    with pytest.raises(InputError, match='one image, one token'):
        module.train()(torch.randn(1, 1, 12))
    assert module.eval()(torch.randn(1, 1, 12)).isfinite().all()


def test_channels_not_divisible_by_heads_are_refused():
    for attention in (ReAttention, SelfAttention):
        with pytest.raises(InputError, match='16 channels cannot be split over 3 heads'):
            attention(16, 3)


def test_attention_maps_times_v_equal_the_output():
    x = torch.randn(2, 7, 12)
    for module in (SelfAttention(12, 3), make(4, 3, torch.float32).eval()):
        maps = module.attention_maps(x)
        v = module.qkv(x)[..., 24:].view(2, 7, 3, 4).transpose(1, 2)
        assert torch.allclose(module.proj((maps @ v).transpose(1, 2).flatten(2)), module(x), atol=1e-5)


def test_no_double_precision_where_the_device_has_none(monkeypatch):
    """Apple's MPS has no float64: with its type of sums, no tensor of the sequential form is one."""
    monkeypatch.setattr(kernels, '_precise', lambda device: torch.float32)
    assert re_attention_precise(torch.device('mps')) is torch.float32
    assert re_attention_precise(torch.device('cpu')) is torch.float64
    module = with_kernel(make(4, 3, torch.float32).train(), 'sequential')
    made = []

    class Record(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            made.extend(t.dtype for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, torch.Tensor))
            return out

    with Record():
        module(torch.randn(2, 9, 12)).square().sum().backward()
    assert torch.float32 in made and torch.float64 not in made
