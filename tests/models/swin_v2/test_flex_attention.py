"""What is particular to FlexAttention; that it computes the same as the other kernels is in test_attention.py."""

import shutil
import subprocess
import sys

import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager
from torch._dynamo.utils import counters
from torch.nn.attention.flex_attention import create_block_mask

from mmvitscale.errors import InputError
from mmvitscale.models.swin_v2 import flex_attention, kernels
from mmvitscale.models.swin_v2.attention import KERNELS, WindowAttention
from mmvitscale.models.swin_v2.position_bias import LogCPB
from mmvitscale.models.swin_v2.windows import window_geometry
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.unit

CPU = torch.device('cpu')


def make_attention(kernel, window, heads=2):
    attn = randomise(WindowAttention(16 * heads, heads, LogCPB(heads, (window, window)), kernel))
    torch.nn.init.uniform_(attn.logit_scale, 1.0, 3.0)
    return attn


@pytest.mark.parametrize('shifted', [False, True])
@pytest.mark.parametrize('size, window', [((40, 36), 16), ((13, 21), 4), ((9, 9), 16), ((33, 50), 8), ((1, 1), 4)])
def test_the_block_mask_equals_that_of_create_block_mask(size, window, shifted):
    groups = window_geometry(1, size, (window, window), shifted, CPU).groups
    of_token, _, _, mask = flex_attention._cut_sequence(groups, CPU)
    tokens = len(of_token)
    assert mask[1].numel() <= 12 * -(-tokens // 128)  # linear in the tokens
    expected = create_block_mask(lambda b, h, q, k: of_token[q] == of_token[k], 1, 1, tokens, tokens, device='cpu')
    found = dict(zip(('kv_num_blocks', 'kv_indices', 'full_kv_num_blocks', 'full_kv_indices'), mask))
    for kind in ('', 'full_'):
        counts, indices = found[f'{kind}kv_num_blocks'], found[f'{kind}kv_indices']
        assert counts.equal(getattr(expected, f'{kind}kv_num_blocks'))
        for row, count in enumerate(counts.flatten().tolist()):
            assert indices[0, 0, row, :count].equal(getattr(expected, f'{kind}kv_indices')[0, 0, row, :count])


def results(attn, x, geometry, window):
    inputs = x.clone().requires_grad_()
    out = attn(inputs, geometry, (window, window))
    out.sin().sum().backward()
    found = [out, inputs.grad, *(parameter.grad for parameter in attn.parameters())]
    attn.zero_grad()
    return found


@pytest.mark.integration
def test_traced_flex_equals_eager_at_many_sizes_with_at_most_two_graphs(monkeypatch):
    """Traced as for a GPU, without making code of it: CPUs have none for its gradient. The gradient of the bias's MLP shows
    that the table's comes through the graph."""
    traced = torch.compile(flex_attention._attend, fullgraph=True, backend='aot_eager')
    monkeypatch.setattr(flex_attention, 'compiled', lambda: traced)
    monkeypatch.setattr(kernels, 'FLEX_DEVICES', ('cpu',))
    monkeypatch.setattr('torch.nn.attention.flex_attention._validate_device', lambda *_: None)
    torch._dynamo.reset()
    counters.clear()
    attn = make_attention('flex', 8)
    for size in [(16, 16), (13, 21), (20, 30), (24, 17), (19, 40), (33, 15)]:
        x, geometry = torch.randn(size[0] * size[1], 32), window_geometry(1, size, (8, 8), True, CPU)
        found = results(attn, x, geometry, 8)
        attn.kernel = 'eager'
        for own, expected in zip(found, results(attn, x, geometry, 8), strict=True):
            assert expected.abs().max() > 1e-3 and (own - expected).abs().max() < 1e-4 * expected.abs().max()
        attn.kernel = 'flex'
    assert 1 <= counters['stats']['unique_graphs'] <= 2


@pytest.mark.integration
def test_flex_attention_keeps_its_own_graph_in_compiled_blocks(monkeypatch):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return aot_eager(graph, inputs)

    own_graph = torch.compile(flex_attention._attend, fullgraph=True, backend=backend)
    monkeypatch.setattr(flex_attention, 'compiled', lambda: own_graph)
    monkeypatch.setattr(kernels, 'FLEX_DEVICES', ('cpu',))
    monkeypatch.setattr('torch.nn.attention.flex_attention._validate_device', lambda *_: None)
    torch._dynamo.reset()
    attn, x = make_attention('flex', 8), torch.randn(13 * 21, 32)
    geometry = window_geometry(1, (13, 21), (8, 8), True, CPU)
    found = results(torch.compile(attn, backend='aot_eager'), x, geometry, 8)
    assert len(graphs) == 1
    attn.kernel = 'eager'
    for own, expected in zip(found, results(attn, x, geometry, 8), strict=True):
        assert (own - expected).abs().max() < 1e-4 * expected.abs().max()


COMPILED = """
import torch
from mmvitscale.models.swin_v2 import attention, flex_attention, kernels
from mmvitscale.models.swin_v2.position_bias import LogCPB
from mmvitscale.models.swin_v2.windows import window_geometry
code = torch.compile(flex_attention._attend, fullgraph=True, dynamic=False)
flex_attention.compiled, kernels.FLEX_DEVICES = lambda: code, ('cpu',)
torch.manual_seed(0)
attn, x = attention.WindowAttention(32, 2, LogCPB(2, (8, 8)), 'flex'), torch.randn(13 * 21, 32)
geometry = window_geometry(1, (13, 21), (8, 8), True, torch.device('cpu'))
with torch.no_grad():
    found = attn(x, geometry, (8, 8))
    attn.kernel = 'eager'
    expected = attn(x, geometry, (8, 8))
assert expected.std() > 0.1 and (found - expected).abs().max() < 1e-5 * expected.abs().max()
"""


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ('g++', 'clang++'))), reason='PyTorch compiles for a CPU with a C++ compiler')
def test_compiled_code_gives_the_same_at_inference():
    """In a process of its own: with graphs for several sizes PyTorch 2.13 makes wrong code for CPUs, where the kernel is not
    used for that reason."""
    result = subprocess.run([sys.executable, '-c', COMPILED], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


def test_flex_attention_falls_back_to_auto_on_other_devices(monkeypatch):
    monkeypatch.setitem(KERNELS, 'auto', None)  # what is called is the function
    monkeypatch.setattr(flex_attention, 'compiled', None)
    attn, x, geometry = make_attention('flex', 4), torch.randn(64, 32), window_geometry(1, (8, 8), (4, 4), True, CPU)
    found = results(attn, x, geometry, 4)
    attn.kernel = 'eager'
    for own, expected in zip(found, results(attn, x, geometry, 4), strict=True):
        assert torch.allclose(own, expected, atol=1e-4)


def test_flex_attention_refuses_heads_of_too_few_channels():
    with pytest.raises(InputError, match='attention flex found with 4 channels a head, but it needs 16'):
        WindowAttention(12, 3, LogCPB(3, (4, 4)), 'flex')
