"""Blocks compiled by default: the decision, with GPUs that are only said to be there, and real compiling on a CPU."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from torch._dynamo.backends.debugging import aot_eager

from mmvitscale.engine import compiled_blocks, training
from mmvitscale.engine.compiled_blocks import compile_training_steps, wants_compiled_blocks, why_not_compiling
from mmvitscale.engine.runner import Runner
from mmvitscale.models import SwinTransformerV2
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def no_graphs():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)


def config(scale=(64, 64), **more):
    pipeline = [dict(type='Resize', scale=scale, keep_ratio=scale[0] != scale[1])]
    return Config(dict(model={}, train_dataloader=dict(dataset=dict(type='A', pipeline=pipeline)), **more))


def test_blocks_are_compiled_where_there_is_a_gpu_and_one_size(gpu):
    assert wants_compiled_blocks(config(), 5000) == (True, 'training images have one size, 64 x 64')
    assert wants_compiled_blocks(config(), None)[0]


@pytest.mark.parametrize(
    'cfg, iterations, reason',
    [
        (config((128, 64)), 90000, 'Resize gives images of many sizes'),
        (config(strategy=dict(type='FSDPStrategy')), 90000, 'the training has a strategy'),
        (config(), 4999, '4999 iterations are too few'),
    ],
)
def test_blocks_are_not_compiled_where_it_cannot_pay(gpu, cfg, iterations, reason):
    assert wants_compiled_blocks(cfg, iterations) == (False, reason)


def test_blocks_are_not_compiled_without_a_gpu_or_by_a_pytorch_that_compiles_eight(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert wants_compiled_blocks(config(), 90000) == (False, 'there is no CUDA GPU')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch, 'compile', lambda model, backend: model)
    assert 'PyTorch before 2.12' in wants_compiled_blocks(config(), 90000)[1]


@pytest.mark.parametrize(
    'available, given, expected',
    [
        (True, dict(runner_type='mmvitscale.Runner'), dict(target='auto')),
        (True, dict(runner_type='mmvitscale.Runner', compile=False), False),
        (True, dict(runner_type='mmvitscale.Runner', compile=dict(target='blocks')), dict(target='blocks')),
        (True, dict(runner_type='mmvitscale.FlexibleRunner', strategy=dict(type='FSDPStrategy')), None),
        (True, dict(runner_type='OwnRunner'), None),
        (False, dict(runner_type='mmvitscale.Runner'), None),
    ],
)
def test_a_setting_of_the_users_own_stays(monkeypatch, available, given, expected):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: available)
    cfg = Config(given)
    training._compile_by_default(cfg)
    assert cfg.get('compile') == expected


class Stub(Runner):
    """A runner as far as compiling goes."""

    def __init__(self, cfg, model=None, testing=False):
        self.cfg, self.model, self._testing = cfg, model, testing
        self.lines = []
        self._train_loop = SimpleNamespace(max_iters=9000, iter=10)

    train_loop = property(lambda self: self._train_loop)
    iter = property(lambda self: self._train_loop.iter)
    logger = property(lambda self: SimpleNamespace(info=self.lines.append, warning=self.lines.append))


def backbone(**options):
    arch = dict(embed_dims=16, depths=(2,), num_heads=(2,))
    return randomise(SwinTransformerV2(arch, window_size=4, drop_path_rate=0.0, **options))


@pytest.mark.parametrize('failure, compiled', [(None, True), ('TritonMissing: Cannot find a working triton', False)])
def test_the_runner_says_what_it_decided_and_why(monkeypatch, gpu, failure, compiled):
    monkeypatch.setattr('mmvitscale.engine.runner.why_not_compiling', lambda device: failure)
    runner = Stub(config(compile=dict(target='auto', backend='aot_eager')), backbone())
    runner._maybe_compile('train_step')
    (line,) = runner.lines
    assert ('are compiled when they are first trained' in line) == compiled
    assert ('one size, 64 x 64' if compiled else failure) in line
    blocks = runner.model.transformer_blocks()
    assert all((block._compiled_call_impl is not None) == compiled for block in blocks)


@pytest.mark.parametrize('target, testing', [('val_step', False), ('test_step', True), ('train_step', True)])
def test_tests_and_validations_are_not_compiled(monkeypatch, gpu, target, testing):
    monkeypatch.setattr('mmvitscale.engine.runner.why_not_compiling', lambda device: None)
    runner = Stub(config(compile=dict(target='auto')), backbone(), testing)
    runner._maybe_compile(target)
    assert not runner.lines and all(block._compiled_call_impl is None for block in runner.model.transformer_blocks())


def gradients(model, image):
    model.zero_grad()
    outs = model.train()(image)
    sum(out.square().mean() for out in outs).backward()
    return [*outs, *(p.grad for p in model.parameters())]


@pytest.mark.integration
@pytest.mark.parametrize('with_cp', [False, True])
def test_training_steps_alone_are_compiled_and_compute_the_same(with_cp):
    graphs, model, image = [], backbone(with_cp=with_cp), torch.randn(2, 3, 32, 32)

    def backend(graph, inputs):
        graphs.append(graph)
        return aot_eager(graph, inputs)

    expected = gradients(model, image)
    names = list(model.state_dict())
    compile_training_steps(model, pytest.fail, backend=backend)
    with torch.no_grad():
        model.eval()(image)
    model.eval()(image)
    assert not graphs
    for own, right in zip(gradients(model, image), expected, strict=True):
        assert torch.allclose(own, right, rtol=1e-3, atol=1e-5)
    assert len(graphs) == 2
    assert list(model.state_dict()) == names
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(block._compiled_call_impl is None for block in other.transformer_blocks())


@pytest.mark.slow
def test_every_block_of_a_deep_model_is_compiled():
    """With stochastic depth each has a rate of its own, and PyTorch gives up after 8 by default."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    arch = dict(embed_dims=8, depths=(10,), num_heads=(1,))
    model = SwinTransformerV2(arch, window_size=4, drop_path_rate=0.3)
    compile_training_steps(model, pytest.fail, backend=backend)
    model.train()(torch.randn(1, 3, 32, 32))
    assert len(graphs) == 10


@pytest.mark.integration
@pytest.mark.parametrize('fails_at', [1, 2])
def test_blocks_that_cannot_be_compiled_are_computed_without_and_one_line_says_so(fails_at):
    calls, lines, model, image = [], [], backbone(), torch.randn(2, 3, 32, 32)

    def backend(graph, inputs):
        calls.append(graph)
        if len(calls) == fails_at:
            raise RuntimeError('Cannot find a working triton installation\nmore of it')
        return graph.forward

    expected = gradients(model, image)
    compile_training_steps(model, lines.append, backend=backend)
    for _ in range(2):
        for own, right in zip(gradients(model, image), expected, strict=True):
            assert torch.allclose(own, right, rtol=1e-3, atol=1e-5)
    assert len(calls) == fails_at
    (line,) = lines
    assert 'cannot be compiled' in line and 'triton' in line and '\n' not in line


def test_an_error_of_the_step_itself_is_no_failure_to_compile():
    model = backbone()
    compile_training_steps(model, pytest.fail, backend='eager')
    block = model.train().transformer_blocks()[0]

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError('CUDA out of memory')

    block._compiled_call_impl.compiled = full
    with pytest.raises(torch.OutOfMemoryError):
        model(torch.randn(1, 3, 32, 32))
    assert block._compiled_call_impl is not None


def test_what_hinders_compiling_is_a_line(monkeypatch):
    real = torch.compile
    monkeypatch.setattr(compiled_blocks.torch, 'compile', lambda f: real(f, backend='aot_eager'))
    assert why_not_compiling('cpu') is None

    def broken(f):
        raise RuntimeError('Found Tesla P100, which is too old\nfor Triton')

    monkeypatch.setattr(compiled_blocks.torch, 'compile', broken)
    assert why_not_compiling('cpu') == 'RuntimeError: Found Tesla P100, which is too old'
