"""How the kernel tuned chooses, with kernels whose times and defects are known; that it computes what the others do is in
test_attention.py."""

import json
import subprocess
import sys
import threading

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import grad
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from mmvitscale.models import SwinTransformerV2
from mmvitscale.models.swin_v2 import kernel_choices, kernels, tuning
from mmvitscale.models.swin_v2.attention import KERNELS, WindowAttention
from mmvitscale.models.swin_v2.kernel_choices import Choice, nearest, read_choices, write_choices
from mmvitscale.models.swin_v2.position_bias import BiasCache, LogCPB, WindowBias
from mmvitscale.models.swin_v2.windows import window_geometry
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.unit

CPU = torch.device('cpu')
EAGER = KERNELS['eager']


class Stand:
    """Kernels in place of the real ones on a clock that they alone move. seconds: of a forward pass; functions: what a kernel
    computes, if not the eager form. calls: names of kernels in order, with the tokens that they were given."""

    def __init__(self, monkeypatch):
        self.now, self.calls, self.lines = 0.0, [], []
        self.seconds = dict(eager=3.0, fused=2.0, sequential=1.0)
        self.functions = {}
        for name in self.seconds:
            monkeypatch.setitem(KERNELS, name, self.kernel(name))
        monkeypatch.setattr(kernels, 'auto', self.kernel('auto'))
        monkeypatch.setattr(tuning, '_clock_of', lambda device: lambda: self.now)
        monkeypatch.setattr(tuning, 'print_log', lambda line, *args, **kwargs: self.lines.append(line))

    def kernel(self, name):
        def run(qkv, scale, bias, groups):
            self.calls.append((name, len(qkv)))
            self.now += self.seconds.get(name, 0.0)
            return self.functions.get(name, EAGER)(qkv, scale, bias, groups)

        return run

    def names(self):
        return [name for name, _ in self.calls]


@pytest.fixture
def stand(monkeypatch):
    return Stand(monkeypatch)


@pytest.fixture
def file(monkeypatch, tmp_path):
    path = tmp_path / 'mmvitscale' / 'attention.json'
    monkeypatch.setattr(tuning, 'choices_file', lambda: path)
    return path


def forget():
    """As a new process."""
    tuning._chosen.clear()
    tuning._measured.clear()


def make_attention(heads=2, window=4, dim=8):
    return randomise(WindowAttention(dim * heads, heads, LogCPB(heads, (window, window)), 'tuned'))


def run(attn, size=(8, 8), window=4, shifted=False, x=None):
    x = torch.randn(size[0] * size[1], attn.q_bias.numel()) if x is None else x
    return attn(x, window_geometry(1, size, (window, window), shifted, CPU), (window, window))


def chosen(stand, attn=None, **options):
    """The kernel that computes the call that follows the one which measures."""
    attn = attn or make_attention()
    run(attn, **options)
    stand.calls.clear()
    run(attn, **options)
    (name,) = stand.names()
    return name


def test_the_fastest_kernel_is_chosen_and_named_in_one_line(stand):
    stand.seconds.update(eager=1.0, fused=0.5, sequential=2.0)
    assert chosen(stand) == 'fused'
    (line,) = stand.lines
    assert '2 heads of 8 channels, 64 tokens in windows of 4 x 4, float32, training' in line
    assert 'fused 500 ms, eager 1e+03 ms, sequential 2e+03 ms; fused from now on' in line


def test_every_kernel_is_timed_on_the_whole_map_in_turn_and_slow_ones_once(stand):
    stand.seconds.update(eager=9.0, fused=1.0, sequential=1.01)
    run(make_attention())
    timed = stand.names()[6:-1]  # after the comparison, of the reference too, and before the call itself
    assert timed.count('eager') == 1 and timed.count('fused') == timed.count('sequential') >= 3
    assert timed[3:] != sorted(timed[3:])


def wrong_output(qkv, scale, bias, groups):
    return EAGER(qkv, scale * 2, bias, groups)


def wrong_gradient(qkv, scale, bias, groups):
    """The right output, but nothing of the gradient of the bias."""
    windows = [group.window for group in groups]
    detached = tuning._Table(bias.table().detach())
    cached = BiasCache()
    return EAGER(qkv, scale, WindowBias(detached, windows, bias.pretrained_window, cached), groups)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize('wrong, what', [(wrong_output, 'outputs'), (wrong_gradient, 'gradients')])
def test_a_fast_kernel_that_differs_from_eager_is_refused_and_named(stand, wrong, what, dtype):
    stand.seconds.update(sequential=0.1)
    stand.functions['sequential'] = wrong
    attn = make_attention().to(dtype)
    assert chosen(stand, attn, x=torch.randn(64, 16, dtype=dtype)) == 'fused'
    assert f'sequential left out: its {what} are not those of the eager form (off by ' in stand.lines[0]


def raising(error):
    def kernel(qkv, scale, bias, groups):
        raise error

    return kernel


@pytest.mark.parametrize(
    'error, reason',
    [
        (torch.OutOfMemoryError('CUDA out of memory'), 'out of memory'),
        (MemoryError(), 'out of memory'),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 'out of memory'),
        (ImportError('no triton\nat all'), 'ImportError: no triton'),
    ],
)
def test_a_kernel_that_fails_is_left_out(stand, error, reason):
    stand.seconds.update(sequential=0.1)
    stand.functions['sequential'] = raising(error)
    assert chosen(stand) == 'fused'
    assert f'; sequential left out: {reason}; fused from now on' in stand.lines[0]


def test_a_kernel_that_fails_on_the_whole_map_alone_is_left_out(stand, monkeypatch):
    monkeypatch.setattr(tuning, '_COMPARED', 1)
    stand.seconds.update(sequential=0.1)

    def full(qkv, *others):
        if len(qkv) == 64:
            raise torch.OutOfMemoryError('CUDA out of memory')
        return EAGER(qkv, *others)

    stand.functions['sequential'] = full
    assert chosen(stand) == 'fused' and 'sequential left out: out of memory' in stand.lines[0]


def test_auto_computes_where_every_kernel_fails(stand, monkeypatch):
    for name in stand.seconds:
        stand.functions[name] = raising(RuntimeError('broken'))
    monkeypatch.setitem(KERNELS, 'auto', EAGER)
    assert run(make_attention()).isfinite().all()
    assert 'nothing could be measured' in stand.lines[0] and 'auto from now on' in stand.lines[0]


def test_auto_computes_where_copies_do_not_fit_and_the_next_process_measures(stand, file, monkeypatch):
    monkeypatch.setitem(KERNELS, 'auto', EAGER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning._Inputs, 'of', raising(torch.OutOfMemoryError()))
        assert run(make_attention()).isfinite().all()
    assert 'all of them left out: out of memory; auto from now on' in stand.lines[0] and not file.exists()
    forget()
    assert chosen(stand) == 'sequential'


def test_a_frozen_projection_leaves_the_gradients_of_scale_and_bias_to_be_compared(stand):
    attn = make_attention()
    for parameter in (attn.qkv.weight, attn.q_bias, attn.v_bias):
        parameter.requires_grad_(False)
    stand.seconds.update(sequential=0.1)
    stand.functions['sequential'] = wrong_gradient
    assert chosen(stand, attn) == 'fused' and 'its gradients are not those' in stand.lines[0]


def test_attention_weights_that_would_fill_the_memory_are_not_tried_on_the_whole_map(stand, monkeypatch):
    monkeypatch.setattr(tuning, 'available_memory', lambda: 2 * 20 * 4 * 16**2 * 2 - 1)
    monkeypatch.setattr(tuning, '_COMPARED', 1)
    stand.seconds.update(eager=0.1, fused=0.1)
    assert chosen(stand) == 'sequential'
    for name in ('eager', 'fused'):  # both keep them, where the bias needs a gradient on a CPU
        assert f'{name} left out: its attention weights would fill the memory' in stand.lines[0]
    monkeypatch.setattr(tuning, 'available_memory', lambda: 2 * 20 * 4 * 16**2 * 2)
    forget()
    assert chosen(stand) != 'sequential'


@pytest.mark.parametrize('seconds, expected', [(0.97, 'sequential'), (0.9, 'fused')])
def test_what_auto_takes_stays_unless_another_kernel_is_clearly_faster(stand, seconds, expected):
    stand.seconds.update(sequential=1.0, fused=seconds)
    assert chosen(stand) == expected


def test_training_inference_precision_windows_and_heads_are_measured_for_themselves(stand):
    attn = make_attention()
    run(attn)
    run(attn)
    assert len(stand.lines) == 1
    with torch.no_grad():
        run(attn)
    assert 'inference' in stand.lines[1] and 'sequential' not in stand.lines[1]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        run(attn)
    assert 'bfloat16, training' in stand.lines[2]
    run(attn, window=8)
    run(attn, size=(16, 8))
    run(attn, shifted=True)
    run(make_attention(heads=4))
    for parameter in attn.position_bias.parameters():
        parameter.requires_grad_(False)
    run(attn)
    assert len(stand.lines) == 8


def test_choices_hold_in_later_processes_until_the_file_is_removed(stand, file):
    stand.seconds.update(fused=0.1)
    assert chosen(stand) == 'fused'
    forget()
    stand.seconds.update(fused=7.0)
    stand.calls.clear()
    run(make_attention())
    assert stand.names() == ['fused'] and f'fused, as it was measured before ({file})' in stand.lines[-1]
    forget()
    assert chosen(stand, size=(16, 8)) == 'sequential'  # another size is measured, and both are kept
    (choices,) = read_choices(file).values()
    assert [(choice.tokens, choice.kernel) for choice in choices] == [(64, 'fused'), (128, 'sequential')]
    forget()
    file.unlink()
    assert chosen(stand) == 'sequential'


@pytest.mark.parametrize('changed', ['torch', 'package', 'device', 'threads'])
def test_another_version_or_device_is_measured_again(stand, file, changed, monkeypatch):
    stand.seconds.update(fused=0.1)
    assert chosen(stand) == 'fused'
    forget()
    stand.seconds.update(fused=7.0)
    if changed == 'torch':
        monkeypatch.setattr(tuning.torch, '__version__', '9.0')
    elif changed == 'package':
        monkeypatch.setattr(tuning.mmvitscale, '__version__', '9.0')
    elif changed == 'device':
        monkeypatch.setattr(tuning.cpu, 'name', lambda: 'another CPU')
    else:
        monkeypatch.setattr(tuning.torch, 'get_num_threads', lambda: 77)
    assert chosen(stand) == 'sequential'
    assert len(read_choices(file)) == 2


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'{"format": 1, "choi',
        b'[1, 2]',
        b'\xff\xfe',
        b'{"format": 2, "choices": {}}',
        b'{"format": 1, "choices": {"a": [{"tokens": "many"}]}}',
        b'{"format": 1, "choices": {"a": [{"tokens": -1, "shapes": 1, "kernel": "fused", "milliseconds": {}}]}}',
        b'{"format": 1, "choices": [3]}',
    ],
)
def test_a_broken_or_foreign_file_is_written_again(stand, file, content):
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    assert read_choices(file) == {}
    assert chosen(stand) == 'sequential'
    assert json.loads(file.read_text())['format'] == 1 and read_choices(file)


@pytest.mark.parametrize('kernel', ['unheard of', 'tuned', 'flex'])
def test_a_kernel_of_the_file_that_cannot_be_is_measured_again(stand, file, kernel):
    assert chosen(stand) == 'sequential'
    file.write_text(file.read_text().replace('"kernel": "sequential"', f'"kernel": "{kernel}"'))
    forget()
    assert chosen(stand) == 'sequential'
    assert kernel not in file.read_text()


def test_a_cache_that_cannot_be_written_is_one_line_and_the_choice_holds(stand, file):
    file.parent.write_text('a file in the place of the folder')
    assert chosen(stand) == 'sequential'
    assert len(stand.lines) == 2 and 'holds for this process alone: ' in stand.lines[1]


def test_further_sizes_take_the_choice_of_the_nearest(stand, monkeypatch):
    monkeypatch.setattr(tuning, '_MOST_SIZES', 2)
    attn = make_attention()
    run(attn, size=(8, 8))
    stand.seconds.update(fused=0.1)
    run(attn, size=(32, 8))
    assert len(stand.lines) == 3 and 'for further ones attention is as for the nearest' in stand.lines[2]
    for size, expected in (((12, 8), 'sequential'), ((24, 8), 'fused'), ((64, 8), 'fused')):
        stand.calls.clear()
        run(attn, size=size)
        assert stand.names() == [expected]
    assert len(stand.lines) == 3


def test_the_nearest_size_is_by_the_ratio_of_tokens_and_then_by_shapes():
    choices = [Choice(100, 1, 'a', {}), Choice(100, 9, 'b', {}), Choice(1000, 1, 'c', {})]
    assert [nearest(choices, tokens, shapes).kernel for tokens, shapes in ((300, 1), (330, 1), (90, 8))] == ['a', 'c', 'b']


def test_measuring_leaves_inputs_gradients_and_random_numbers_alone(monkeypatch):
    """With the real kernels, which overwrite what they are given."""
    results = []
    for kernel in ('sequential', 'tuned'):
        monkeypatch.setattr(tuning, '_choose', lambda *args: (tuning._measure(*args), 'sequential')[1])
        torch.manual_seed(1)
        attn = make_attention()
        attn.kernel = kernel
        hooked = []
        for parameter in attn.parameters():
            parameter.register_hook(hooked.append)
        x = torch.randn(64, 16, requires_grad=True)
        out = run(attn, x=x)
        out.square().sum().backward()
        results.append([out, x.grad, *(p.grad for p in attn.parameters()), torch.rand(3), torch.tensor(len(hooked))])
    for expected, found in zip(*results, strict=True):
        assert torch.equal(expected, found)


def test_values_with_nan_are_not_measured_and_not_remembered(stand, file, monkeypatch):
    attn = make_attention()
    monkeypatch.setitem(KERNELS, 'auto', kernels.auto)
    run(attn, x=torch.full((64, 16), float('nan')))
    assert stand.names()[-1] == 'auto' and not stand.lines and not file.exists()
    assert chosen(stand, attn) == 'sequential'


@pytest.mark.parametrize('early', [True, False])
@pytest.mark.parametrize('fastest', ['eager', 'fused', 'sequential'])
def test_a_checkpointed_block_is_recomputed_with_the_kernel_of_its_forward_pass(stand, fastest, early):
    """And checkpointing's own comparison of what is saved holds, which what was measured would disturb."""
    stand.seconds.update({fastest: 0.1})
    attn = make_attention()
    x = torch.randn(64, 16, requires_grad=True)
    with torch.utils.checkpoint.set_checkpoint_early_stop(early):
        out = checkpoint(lambda x: run(attn, x=x), x, use_reentrant=False, determinism_check='default')
        stand.calls.clear()
        out.square().sum().backward()
    assert stand.names() == [fastest]
    (line,) = stand.lines
    assert 'training, checkpointed' in line
    found = x.grad.clone()
    x.grad = None
    attn.kernel = 'eager'
    run(attn, x=x).square().sum().backward()
    assert torch.allclose(found, x.grad, rtol=1e-4, atol=1e-5)


def test_a_forward_pass_counts_twice_where_it_is_recomputed(stand):
    """A kernel with a slow forward and a quick backward pass."""

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, grad):
            stand.now += 1.5
            return grad

    stand.seconds.update(fused=0.5, sequential=1.5, eager=9.0)
    stand.functions['fused'] = lambda *args: Slow.apply(EAGER(*args))  # 0.5 + 1.5, and recomputed 1 + 1.5
    assert chosen(stand) == 'sequential'  # 1.5, and recomputed 3
    attn = make_attention(heads=4)
    run_checkpointed = checkpoint(lambda x: run(attn, x=x), torch.randn(64, 32), use_reentrant=False)
    assert run_checkpointed.isfinite().all() and stand.names()[-1] == 'fused'


@pytest.mark.parametrize('with_cp', [False, True])
def test_a_tuned_backbone_trains_as_an_eager_one(with_cp):
    image, gradients = torch.randn(2, 3, 75, 50), []
    for options in (dict(attention='eager'), dict(attention='tuned', with_cp=with_cp)):
        torch.manual_seed(1)
        arch = dict(embed_dims=16, depths=(2, 2), num_heads=(2, 4))
        model = randomise(SwinTransformerV2(arch, window_size=4, drop_path_rate=0.0, **options))
        for _ in range(2):
            sum(out.square().mean() for out in model(image)).backward()
        gradients.append([p.grad for p in model.parameters()])
    for expected, found in zip(*gradients, strict=True):
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_nothing_is_measured_where_there_are_no_numbers_or_others_look_on(stand):
    attn, x = make_attention(), torch.randn(64, 16)
    with FakeTensorMode(allow_non_fake_inputs=True):
        run(attn, x=torch.randn(64, 16))
    with FlopCounterMode(display=False):
        run(attn, x=x)
    grad(lambda x: run(attn, x=x).sum())(x)
    torch.jit.trace(Attention(attn), x, check_trace=False)
    assert set(stand.names()) == {'auto'} and not stand.lines
    attn(x[:0], window_geometry(0, (8, 8), (4, 4), False, CPU), (4, 4))
    assert set(stand.names()) == {'auto'} and not stand.lines


@pytest.mark.integration
def test_a_compiled_model_computes_as_auto_in_one_graph():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    attn, x = make_attention(), torch.randn(64, 16)
    try:
        found = torch.compile(lambda x: run(attn, x=x), backend=backend, fullgraph=True)(x)
        exported = torch.export.export(Attention(attn), (x,)).module()(x)
    finally:
        torch._dynamo.reset()
    assert len(graphs) == 1 and not tuning._chosen
    attn.kernel = 'auto'
    assert torch.allclose(found, run(attn, x=x), atol=1e-6) and torch.allclose(exported, found, atol=1e-6)


class Attention(torch.nn.Module):
    def __init__(self, attn):
        super().__init__()
        self.attn = attn

    def forward(self, x):
        return run(self.attn, x=x)


def test_flex_is_a_candidate_on_its_devices_for_heads_that_are_wide_enough(stand, monkeypatch):
    monkeypatch.setitem(KERNELS, 'flex', stand.kernel('flex'))
    monkeypatch.setattr(kernels, 'FLEX_DEVICES', ('cpu',))
    stand.seconds['flex'] = 0.1
    assert chosen(stand, make_attention(dim=16)) == 'flex'
    assert chosen(stand, make_attention(dim=8)) == 'sequential'


def test_processes_wait_for_the_one_that_measures_and_take_its_choice(stand, file):
    """Two threads, each with a handle of its own, as processes have them."""
    order, inside = [], threading.Event()

    def first():
        with kernel_choices.locked(file):
            inside.set()
            waiting.start()
            waiting.join(0.3)
            order.append('first')

    def second():
        with kernel_choices.locked(file):
            order.append('second')

    waiting = threading.Thread(target=second)
    begun = threading.Thread(target=first)
    begun.start()
    assert inside.wait(10)
    begun.join(10)
    waiting.join(10)
    assert order == ['first', 'second']


def test_one_that_waits_in_vain_goes_on(file, monkeypatch):
    monkeypatch.setattr(kernel_choices, '_PATIENCE', 0.0)
    with kernel_choices.locked(file), kernel_choices.locked(file):
        write_choices(file, {'a': [Choice(1, 1, 'fused', {'fused': 2.0})]})
    assert read_choices(file) == {'a': [Choice(1, 1, 'fused', {'fused': 2.0})]}


PROCESS = """
import sys, torch
from mmvitscale.models import SwinTransformerV2
torch.manual_seed(0)
model = SwinTransformerV2(dict(embed_dims=16, depths=(2,), num_heads=(1,)), window_size=4, attention='tuned')
sum(out.sum() for out in model(torch.randn(1, 3, 64, 64))).backward()
"""


@pytest.mark.integration
def test_another_process_takes_what_is_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    outputs = [subprocess.run([sys.executable, '-c', PROCESS], capture_output=True, text=True) for _ in range(2)]
    assert [output.returncode for output in outputs] == [0, 0], outputs[-1].stderr
    first, second = (output.stdout + output.stderr for output in outputs)
    assert first.count('from now on') == 2 and 'as it was measured before' not in first
    assert second.count('as it was measured before') == 2 and 'from now on' not in second
    assert [path.name for path in sorted((tmp_path / 'mmvitscale').iterdir())] == ['attention.json', 'attention.lock']
