import warnings

import pytest
import torch

from mmvitscale.errors import InputError
from mmvitscale.models.swin_v2 import attention, flex_attention, kernels
from mmvitscale.models.swin_v2.attention import KERNELS, WindowAttention, unit_vectors
from mmvitscale.models.swin_v2.backbone import PreNormBlock, SwinBlockV2
from mmvitscale.models.swin_v2.position_bias import BiasCache, LogCPB, WindowBias
from mmvitscale.models.swin_v2.windows import window_geometry
from tests.helpers import brute_force
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.unit

CPU = torch.device('cpu')


@pytest.fixture(autouse=True)
def uncompiled_flex_attention(monkeypatch):
    """Let the kernel flex run here, in single steps, for heads of any width; its gradients are those of PyTorch's own form,
    which it refuses on CPUs although they are right."""
    monkeypatch.setattr(kernels, 'FLEX_DEVICES', ('cpu',))
    monkeypatch.setattr(attention, 'FLEX_CHANNELS', 1)
    monkeypatch.setattr(flex_attention, 'compiled', lambda: flex_attention._attend)
    monkeypatch.setattr('torch.nn.attention.flex_attention._validate_device', lambda *_: None)
    warnings.filterwarnings('ignore', message='flex_attention called without torch.compile')


MAPS = [(8, 8), (7, 7), (9, 13), (1, 17), (3, 3), (16, 20)]


def make_block(window, kernel='eager', dim=12, heads=3):
    attn = WindowAttention(dim, heads, LogCPB(heads, window), kernel)
    block = randomise(SwinBlockV2(dim, attn, mlp_ratio=2, drop_path=0, extra_norm=False))
    torch.nn.init.uniform_(attn.logit_scale, 1.0, 5.0)  # beyond log 100 = 4.6, so that the clamp is seen
    return block


@pytest.mark.parametrize('shifted', [False, True])
@pytest.mark.parametrize('window', [4, 8])
@pytest.mark.parametrize('size', MAPS)
def test_every_kernel_equals_brute_force_over_tokens(size, window, shifted):
    block = make_block((window, window)).double()
    geometry = window_geometry(2, size, (window, window), shifted, CPU)
    x = torch.randn(2, *size, 12, dtype=torch.float64)
    expected = torch.stack([brute_force.block(block, image, (window, window), shifted, (6, 6)) for image in x])
    for kernel in KERNELS:
        twin = make_block((window, window), kernel).double()
        twin.load_state_dict(block.state_dict())
        assert (twin(x, geometry, (6, 6)) - expected).abs().max() < 1e-9, kernel
        single = twin.float()(x.float(), geometry, (6, 6))
        assert (single - expected).abs().max() < 1e-5 * expected.abs().max(), kernel


@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize('size, window', [((9, 13), 4), ((1, 17), 4), ((8, 8), 4), ((13, 40), 16), ((21, 10), 8)])
@pytest.mark.parametrize('shifted', [False, True])
def test_kernels_agree_in_outputs_and_gradients(size, window, shifted, dtype, tolerance, monkeypatch):
    monkeypatch.setitem(kernels._CHUNK, 'cpu', 3 * 3 * 16**2)  # pieces of some windows, and of a rest
    results = {}
    x = torch.randn(2, *size, 12, dtype=dtype)
    for kernel in sorted(KERNELS):
        torch.manual_seed(1)
        block = make_block((window, window), kernel).to(dtype)
        inputs = x.clone().requires_grad_()
        out = block(inputs, window_geometry(2, size, (window, window), shifted, CPU), (6, 6))
        out.sin().sum().backward()
        results[kernel] = dict(out=out, x=inputs.grad, **{name: p.grad for name, p in block.named_parameters()})
    for kernel, tensors in results.items():
        for name, tensor in tensors.items():
            pretrained_window = results['eager'][name]
            assert (tensor - pretrained_window).abs().max() <= tolerance * pretrained_window.abs().max(), (kernel, name)


@pytest.mark.parametrize('kernel', sorted(KERNELS))
def test_bfloat16_outputs_and_gradients_stay_close_to_float32(kernel):
    """Outputs and gradients, with the full range of the bias; bfloat16 resolves 1/256."""
    results = []
    x = torch.randn(2, 9, 13, 12)
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(1)
        block = make_block((4, 4), kernel)
        torch.nn.init.constant_(block.attn.logit_scale, 1.0)
        block.attn.position_bias.mlp[2].weight.data.mul_(10)
        inputs = x.clone().requires_grad_()
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = block.attn(inputs.flatten(0, 2), window_geometry(2, (9, 13), (4, 4), True, CPU), (4, 4))
        out.float().sin().sum().backward()
        results.append([out.float(), inputs.grad, *(p.grad for p in block.attn.parameters())])
    assert results[0][0].std() > 0.1
    errors = [((found - expected).norm() / expected.norm()).item() for expected, found in zip(*results)]
    assert errors[0] < 0.01 and max(errors) < 0.15, errors


@pytest.mark.parametrize('window', [8, 16])
def test_logits_of_16_bit_queries_are_kept_in_float32(window):
    """Up to 100 they are, where bfloat16 resolves 0.5. A kernel that rounds them is off by 0.012."""
    torch.manual_seed(0)
    groups, scale = window_geometry(1, (16, 16), (window, window), False, CPU).groups, torch.full((3,), 60.0)
    bias = WindowBias(LogCPB(3, (window, window)), [group.window for group in groups], (window, window), BiasCache())
    qkv = torch.randn(256, 3, 3, 32).bfloat16()
    with torch.no_grad():
        expected = KERNELS['eager'](qkv.double(), scale.double(), bias, groups)
        error = KERNELS['sequential'](qkv.clone(), scale, bias, groups) - expected
    assert error.norm() < 0.009 * expected.norm()


@pytest.mark.parametrize('window', [8, 16])
def test_a_common_offset_of_values_keeps_bfloat16_gradients_accurate(window):
    """A part that all values share moves no attention weight; rows of the scores' gradient sum to zero only if it cancels."""
    torch.manual_seed(0)
    groups = window_geometry(1, (16, 16), (window, window), False, CPU).groups
    qkv, grad = torch.randn(256, 3, 3, 32), torch.randn(256, 3, 32) + 1
    qkv[:, 2] += 2
    qkv, grad = qkv.bfloat16(), grad.bfloat16()
    shapes = [group.window for group in groups]
    bias = WindowBias(randomise(LogCPB(3, (window, window))), shapes, (window, window), BiasCache())
    found = []
    for kernel, dtype in (('sequential', torch.bfloat16), ('eager', torch.float64)):
        inputs = qkv.to(dtype).requires_grad_()
        scale = torch.full((3,), 10.0, dtype=torch.promote_types(dtype, torch.float32))
        out = KERNELS[kernel](inputs * 1, scale.requires_grad_(), bias, groups)
        found.append([out, *torch.autograd.grad(out, [inputs, scale], grad.to(dtype))])
    for own, expected, bound in zip(*found, (0.005, 0.02, 0.03)):
        assert (own - expected).norm() < bound * expected.norm()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('kernel', sorted(KERNELS))
def test_zero_queries_and_keys_give_no_nan(kernel, dtype):
    block = make_block((4, 4), kernel)
    with torch.no_grad():
        block.attn.qkv.weight[:24] = 0  # q and k are zero for every token; k has no bias
        block.attn.q_bias.zero_()
    x = torch.zeros(1, 6, 6, 12, requires_grad=True)
    with torch.autocast('cpu', dtype=dtype, enabled=dtype != torch.float32):
        out = block(x, window_geometry(1, (6, 6), (4, 4), True, CPU), (4, 4))
        (100 * out.float()).sum().backward()
    for tensor in (out, x.grad, *(p.grad for p in block.parameters())):
        assert tensor.isfinite().all()


def test_unit_vectors_handle_zero_tiny_and_large_float16_inputs():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-9, 0.0]], requires_grad=True)
    out = unit_vectors(x)
    assert torch.allclose(out, torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, 0.0]]))
    out.sum().backward()
    assert x.grad[1:].eq(0).all() and x.grad[0].ne(0).all()
    assert unit_vectors(torch.full((4,), 300.0, dtype=torch.float16)).tolist() == [0.5] * 4  # 4 * 300^2 > 65504


def test_channels_not_divisible_by_heads_are_refused():
    with pytest.raises(InputError, match='12 channels cannot be split over 5 heads'):
        WindowAttention(12, 5, LogCPB(5, (4, 4)))


# SwinV1's, for comparison


def dot_product(attn, x, window):
    """softmax(q k' / sqrt(d) + bias) v in one window of all tokens, from the definition."""
    tokens, dim = x.shape
    q, k, v = attn.qkv(x).view(tokens, 3, attn.num_heads, -1).unbind(1)
    q, v = q + attn.q_bias.view(attn.num_heads, -1), v + attn.v_bias.view(attn.num_heads, -1)
    logits = torch.einsum('qhd,khd->hqk', q, k) / q.shape[-1] ** 0.5
    for i in range(tokens):
        for j in range(tokens):
            offset = (i // window[1] - j // window[1], i % window[1] - j % window[1])
            logits[:, i, j] += brute_force.log_cpb(attn.position_bias.mlp, offset, window)
    return attn.proj(torch.einsum('hqk,khd->qhd', logits.softmax(-1), v).flatten(1))


@pytest.mark.parametrize('kernel', sorted(KERNELS))
def test_dot_product_attention_equals_its_formula_in_outputs_and_gradients(kernel):
    attn = randomise(WindowAttention(12, 3, LogCPB(3, (3, 4)), kernel, 'dot_product')).double()
    assert attn.logit_scale is None
    x = torch.randn(12, 12, dtype=torch.float64)
    found = []
    for forward in (
        lambda x: attn(x, window_geometry(1, (3, 4), (4, 4), False, CPU), (3, 4)),
        lambda x: dot_product(attn, x, (3, 4)),
    ):
        attn.zero_grad()
        inputs = x.clone().requires_grad_()
        out = forward(inputs)
        out.sin().sum().backward()
        found.append([out, inputs.grad, *(parameter.grad for parameter in attn.parameters())])
    for own, expected in zip(*found, strict=True):
        assert (own - expected).abs().max() <= 1e-10 * expected.abs().max()
    with torch.no_grad():
        assert torch.allclose(attn(x, window_geometry(1, (3, 4), (4, 4), False, CPU), (3, 4)), found[1][0])


def test_a_pre_norm_block_normalises_before_and_not_after():
    attn = WindowAttention(12, 3, LogCPB(3, (4, 4)), 'eager')
    block = randomise(PreNormBlock(12, attn, mlp_ratio=2, drop_path=0, extra_norm=False))
    geometry = window_geometry(1, (4, 4), (4, 4), False, CPU)
    x = torch.randn(1, 4, 4, 12)
    after = x + attn(block.pre_norm1(x).flatten(0, 2), geometry, (4, 4)).view(x.shape)
    assert torch.allclose(block(x, geometry, (4, 4)), after + block.mlp(block.pre_norm2(after)), atol=1e-6)
