"""How Re-attention's normalisation transfers to other numbers of tokens, against formulas written out with whole maps."""

import copy

import pytest
import torch
from torch import nn

from mmvitscale.models.deepvit import re_attention
from mmvitscale.models.deepvit.re_attention import ReAttention, SelfAttention
from mmvitscale.models.deepvit.re_attention_norm import VariancePowerLaw, frozen_statistics, gain_and_offset
from mmvitscale.utils.choices import STATISTICS
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.unit

HEADS, DIM, TRAINED = 3, 12, 10


def make(statistics='token_invariant', share=1.0, kernel='auto', trained=TRAINED):
    """Its law has seen two sizes, and says 1.3, 1.6 and 1.9."""
    torch.manual_seed(0)
    module = randomise(ReAttention(DIM, HEADS, True, kernel, 0.0, statistics, share, trained)).double()
    nn.init.normal_(module.qkv.weight, std=3 * DIM**-0.5)
    # The mean lags a little behind the weights, as it does in training.
    mean = module.reatten_matrix.weight.flatten(1).sum(1) / trained + module.reatten_matrix.bias
    module.var_norm.running_mean.copy_(mean.detach() + 0.003 * torch.randn(HEADS))
    module.var_norm.running_var.uniform_(1e-5, 1e-3)
    law = module.token_law
    for _ in range(60):
        for tokens in (trained, 4 * trained):
            var = 1e-3 * (tokens / trained) ** -torch.tensor([[1.3, 1.6, 1.9]]).double()
            law.update(law.observed(var, tokens, torch.ones(1, 1).double()), 0.2)
    return module


def maps_of(module, x):
    """(B, heads, N, N) mixed maps before they are normalised, and v."""
    q, k, v = module.qkv(x).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
    maps = torch.softmax(q @ k.mT * module.scale, -1)
    return module.reatten_matrix(maps), v


def out_of(module, maps, v):
    return module.proj((module.out_scale * maps @ v).transpose(1, 2).flatten(2))


def heads(values):
    return values.view(-1, HEADS, 1, 1)


def official(module, x):
    """By BatchNorm itself, in the mode of the module; its running statistics follow."""
    norm, (maps, v) = nn.BatchNorm2d(HEADS).double().train(module.training), maps_of(module, x)
    norm.load_state_dict(module.var_norm.state_dict())
    return out_of(module, norm(maps), v), norm


def with_kernel(module, kernel):
    module = copy.deepcopy(module)
    module.kernel = kernel
    return module


@pytest.mark.parametrize('statistics', STATISTICS)
@pytest.mark.parametrize('training', [True, False])
def test_all_statistics_equal_batch_norm_at_the_trained_token_count(statistics, training):
    if statistics == 'image' and not training:
        pytest.skip('of one image each: below')
    module, x = make(statistics).train(training), torch.randn(2, TRAINED, DIM).double()
    expected, norm = official(module, x)
    assert torch.allclose(module(x), expected, rtol=1e-9, atol=1e-12)
    for name, buffer in norm.named_buffers():
        assert torch.allclose(module.var_norm.get_buffer(name), buffer, rtol=1e-9), name


@pytest.mark.parametrize('tokens', [TRAINED, 5, 33])
def test_image_statistics_normalise_each_image_as_its_own_batch(tokens):
    module, x = make('image').eval(), torch.randn(3, tokens, DIM).double()
    alone = copy.deepcopy(module)
    # eps falls with the variance: it is the official one for the trained number of tokens.
    eps = 1e-5 * (tokens / TRAINED) ** -module.token_law.exponent()
    for image, found in zip(x, module(x)):
        maps, v = maps_of(alone, image[None])
        mean, var = maps.mean((0, 2, 3)), maps.var((0, 2, 3), unbiased=False)
        norm = alone.var_norm
        expected = (maps - heads(mean)) / heads(var + eps).sqrt() * heads(norm.weight) + heads(norm.bias)
        assert torch.allclose(found, out_of(alone, expected, v)[0], rtol=1e-9, atol=1e-12)
        if tokens == TRAINED:
            assert torch.allclose(found, official(alone.train(), image[None])[0][0], rtol=1e-9, atol=1e-12)
            alone.eval()


@pytest.mark.parametrize('tokens', [5, 33])
@pytest.mark.parametrize('statistics, share', [('running', 1.0), ('scaled', 1.0), ('token_invariant', 1.0), ('image', 0.3)])
def test_normalisation_at_other_token_counts_equals_its_formula(statistics, share, tokens):
    module, x = make(statistics, share).eval(), torch.randn(2, tokens, DIM).double()
    norm, ratio = module.var_norm, tokens / TRAINED
    maps, v = maps_of(module, x)
    total = module.reatten_matrix.weight.flatten(1).sum(1)
    mean, var, eps, grown = norm.running_mean, norm.running_var, norm.eps, ratio ** module.token_law.exponent()
    if statistics != 'running':
        mean = mean + total * (1 / tokens - 1 / TRAINED)
    if statistics == 'scaled':
        var, eps = var / grown, eps / grown
    if statistics == 'image':
        own = maps.var((2, 3), unbiased=False)
        var, eps = share * own + (1 - share) * var / grown, eps / grown
        mean = share * maps.mean((2, 3)) + (1 - share) * mean
    if statistics == 'token_invariant':  # as the trained size sees it: averages of as many values
        centred = maps - heads(total / tokens + module.reatten_matrix.bias)
        left = total / TRAINED + module.reatten_matrix.bias - norm.running_mean
        gain = norm.weight / (var + eps).sqrt()
        expected = heads(gain) * centred + heads(gain * left + norm.bias) * TRAINED / tokens
    else:
        expected = (maps - heads(mean)) / heads(var + eps).sqrt() * heads(norm.weight) + heads(norm.bias)
    assert torch.allclose(module(x), out_of(module, expected, v), rtol=1e-9, atol=1e-12)
    assert torch.allclose(module.attention_maps(x), module.out_scale * expected, rtol=1e-9, atol=1e-12)


def test_token_invariant_statistics_ignore_duplicated_tokens():
    """Attention is an average, so the same tokens once more change nothing; the official form doubles its outputs."""
    x = torch.randn(1, TRAINED, DIM).double()
    carried, scaled = (make(statistics).eval() for statistics in ('token_invariant', 'scaled'))
    assert torch.allclose(carried(torch.cat((x, x), 1))[:, :TRAINED], carried(x), rtol=1e-9)
    assert not torch.allclose(scaled(torch.cat((x, x), 1))[:, :TRAINED], scaled(x), rtol=0.1)


@pytest.mark.parametrize('statistics', ['scaled', 'token_invariant', 'image'])
def test_training_at_other_token_counts_updates_rescaled_statistics(statistics):
    module, x = make(statistics).train(), torch.randn(2, 40, DIM).double()
    grown = 4 ** module.token_law.exponent()
    maps, v = maps_of(module, x)
    var = maps.var((0, 2, 3), unbiased=False) * grown
    before = copy.deepcopy(module.var_norm)
    found = module(x)
    norm = module.var_norm
    gain = heads(norm.weight / (var + norm.eps).sqrt())
    centred = maps - maps.mean((0, 2, 3), keepdim=True)
    expected = (
        gain * centred + heads(norm.bias) / 4
        if statistics == 'token_invariant'
        else gain * heads(grown).sqrt() * centred + heads(norm.bias)
    )
    assert torch.allclose(found, out_of(module, expected, v), rtol=1e-9, atol=1e-12)
    elements = 2 * 40**2
    assert torch.allclose(norm.running_var, before.running_var.lerp(var * elements / (elements - 1), 0.1))
    mean = module.reatten_matrix.weight.flatten(1).sum(1) / TRAINED + module.reatten_matrix.bias
    assert torch.allclose(norm.running_mean, before.running_mean.lerp(mean, 0.1))
    assert module.token_law.trained_tokens == TRAINED


def test_running_statistics_record_the_trained_token_count():
    module = make('running').train()
    module(torch.randn(2, 21, DIM).double())
    assert module.token_law.trained_tokens == 21
    with frozen_statistics(module):
        module(torch.randn(2, 8, DIM).double())
    assert module.token_law.trained_tokens == 21


def test_exponents_are_learned_from_two_sizes_and_default_with_one():
    assert torch.allclose(make().token_law.exponent(), torch.tensor([1.3, 1.6, 1.9]).double(), atol=0.03)
    law = VariancePowerLaw(2, 50)
    assert torch.allclose(law.exponent(), torch.full((2,), 1.7))
    for tokens in (197, 197, 197):
        law.update(law.observed(torch.rand(4, 2), tokens, torch.ones(4, 1)), 0.5)
    assert torch.allclose(law.exponent(), torch.full((2,), 1.7), atol=1e-3)
    assert law.growth(50) == 1.0
    before = law.tokens.clone()
    law.update(law.observed(torch.full((1, 2), torch.nan), 60, torch.ones(1, 1)), 0.5)
    assert torch.equal(law.tokens, before)


# Kernels, gradients, padding


def filled(images, tokens):
    """Images of unequal numbers of tokens -> a batch with rubbish in between, and which tokens there are."""
    x = 50 * torch.randn(len(images), tokens, DIM).double()
    keys = torch.zeros(len(images), tokens, dtype=torch.bool)
    for i, image in enumerate(images):
        x[i, : len(image)], keys[i, : len(image)] = image, True
    return x, keys


@pytest.mark.parametrize('statistics', STATISTICS)
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('padded', [True, False])
def test_kernels_agree(statistics, training, padded, monkeypatch):
    monkeypatch.setitem(re_attention._CHUNK, 'cpu', 4 * 2 * HEADS * 23)  # four rows at a time
    monkeypatch.setitem(re_attention._ROWS, 'cpu', 1)
    x, keys = filled([torch.randn(14, DIM).double(), torch.randn(23, DIM).double()], 23)
    module, results = make(statistics, 0.6).train(training), []
    for kernel in ('eager', 'sequential'):
        own, image = with_kernel(module, kernel), x.clone().requires_grad_()
        out = own(image, keys if padded else None)
        shown = out * keys[..., None] if padded else out
        (shown * torch.linspace(0.5, 1.5, out.numel()).view_as(out)).sum().backward()
        results.append([shown, image.grad, *(p.grad for p in own.parameters()), *own.buffers()])
    for one, other in zip(*results):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-10 * one.abs().max().item())


@pytest.mark.parametrize('statistics', STATISTICS)
def test_windows_of_padding_have_no_part_in_training_statistics(statistics):
    """They hold one token, the class token: a gain and running statistics with them are those without."""
    found = []
    for windows in (2, 4):
        module = make(statistics).train()
        var = torch.tensor([[1e-3, 2e-3, 3e-3], [2e-3, 1e-3, 1e-3], [0, 0, 0], [0, 0, 0]]).double()[:windows]
        mixing, bias = module.reatten_matrix.weight.flatten(1), module.reatten_matrix.bias
        gain, _ = gain_and_offset(
            module.var_norm, module.token_law, mixing, bias, var, torch.tensor([5, 3, 1, 1])[:windows], statistics, 1.0
        )
        found.append([gain.view(-1, HEADS)[:2], *module.var_norm.buffers(), *module.token_law.buffers()])
    for without, with_padding in zip(*found, strict=True):
        assert torch.allclose(without, with_padding, rtol=1e-12)


@pytest.mark.parametrize('fast', [True, pytest.param(False, marks=pytest.mark.slow)], ids=['a direction', 'every element'])
@pytest.mark.parametrize('statistics', STATISTICS)
@pytest.mark.parametrize('training', [True, False])
def test_gradients_equal_finite_differences(statistics, training, fast):
    module = make(statistics, 0.6, 'sequential', trained=3).train(training)
    x, keys = filled([torch.randn(3, DIM).double(), torch.randn(5, DIM).double()], 5)
    x = (x * keys[..., None]).requires_grad_()

    def forward(x, *parameters):
        return copy_of(x, keys) * keys[..., None]

    def copy_of(x, keys):
        with frozen_statistics(module):
            return module(x, keys)

    assert torch.autograd.gradcheck(forward, (x, *module.parameters()), fast_mode=fast)


@pytest.mark.parametrize('statistics', STATISTICS)
@pytest.mark.parametrize('attention', [ReAttention, SelfAttention])
def test_padding_changes_nothing(attention, statistics):
    images = [torch.randn(n, DIM).double() for n in (4, 9, 9)]
    module = make(statistics).eval() if attention is ReAttention else SelfAttention(DIM, HEADS).double()
    alone = [module(image[None])[0] for image in images]
    for tokens in (9, 13):
        for found, expected in zip(module(*filled(images, tokens)), alone):
            assert torch.allclose(found[: len(expected)], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('statistics', STATISTICS)
def test_padding_changes_nothing_in_training(statistics):
    images, results = [torch.randn(n, DIM).double() for n in (4, 9)], []
    for tokens in (9, 15):
        module = make(statistics).train()
        x, keys = filled(images, tokens)
        x.requires_grad_()
        out = module(x, keys)
        (out[:, :9] * keys[:, :9, None]).square().sum().backward()
        grads = [p.grad for p in module.parameters()]
        results.append([out[0, :4], out[1, :9], x.grad[0, :4], x.grad[1, :9], *grads, *module.buffers()])
        assert not x.grad[~keys].any()
    for one, other in zip(*results):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


def test_running_statistics_count_only_valid_elements_of_padded_batches():
    images = [torch.randn(n, DIM).double() for n in (4, 9)]
    module = make('running').train()
    elements = torch.cat([maps_of(module, image[None])[0].flatten(2)[0] for image in images], 1)  # (heads, 16 + 81)
    norm = nn.BatchNorm1d(HEADS).double()
    norm.load_state_dict(module.var_norm.state_dict())
    expected = norm(elements[None]).unflatten(2, (97,)).squeeze(0).split([16, 81], 1)
    found = module(*filled(images, 9))
    for image, maps, out in zip(images, expected, found):
        n = len(image)
        _, v = maps_of(module, image[None])
        assert torch.allclose(out[:n], out_of(module, maps.view(1, HEADS, n, n), v)[0], rtol=1e-9, atol=1e-12)
    for name in ('running_mean', 'running_var'):
        assert torch.allclose(getattr(module.var_norm, name), getattr(norm, name), rtol=1e-9)


@pytest.mark.parametrize('statistics', STATISTICS)
def test_recomputation_repeats_the_first_pass_and_leaves_buffers_unchanged(statistics):
    module, x = make(statistics).train(), torch.randn(2, 37, DIM).double()
    kept = frozen_statistics(module)
    first = module(x)
    buffers = [buffer.clone() for buffer in module.buffers()]
    with kept:
        assert torch.equal(module(x), first)
    assert all(torch.equal(a, b) for a, b in zip(module.buffers(), buffers))


def test_bfloat16_autocast_stays_close_to_float32():
    x = torch.randn(2, 40, DIM)
    for statistics in STATISTICS:
        module = make(statistics).float().train()
        exact = module(x)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            out = module(x)
        assert (out - exact).norm() < 0.1 * exact.norm()


def test_dropout_of_maps_sees_no_padding():
    x, keys = filled([torch.randn(4, DIM).double(), torch.randn(9, DIM).double()], 13)
    outs = []
    for scale in (1, 50):
        module = make().train()
        module.attn_drop = 0.3
        torch.manual_seed(3)
        outs.append(module(torch.where(keys[..., None], x, scale * x), keys) * keys[..., None])
    assert torch.allclose(*outs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_exponents_survive_a_cast_to_half_precision(dtype):
    law = VariancePowerLaw(2, 50)
    assert torch.allclose(law.to(dtype).exponent(), torch.full((2,), 1.7))
    law = VariancePowerLaw(2, 50)
    for tokens in (785, 785, 3137, 785, 3137):
        law.update(law.observed(torch.full((1, 2), 10.0 * tokens**-1.4), tokens, torch.ones(1, 1)), 0.1)
    assert torch.allclose(law.to(dtype).exponent(), copy.deepcopy(law).float().exponent(), atol=0.02)
    assert torch.allclose(law.exponent(), torch.full((2,), 1.4), atol=0.03)
