"""The benchmark measures what it says, with the peers that are there."""

import json

import pytest
import torch
from commands import run

from mmvitscale.analysis import benchmark
from mmvitscale.analysis.benchmark import FLOOR, OURS, Case
from mmvitscale.models.backbones.swin_v2 import SwinTransformerV2


def test_the_whole_report(tmp_path):
    path = tmp_path / 'report.json'
    result = run('tools/benchmark.py', '--size', 64, '--window', 4, '--mode', 'training', '--rounds', 2, '--memory',
                 '--peers', 'timm', '--threads', 2, '--json', path)
    report = json.loads(path.read_text())
    case, = report['cases']
    ours, timm, floor = case['results']
    assert [item['name'] for item in (ours, timm, floor)] == [OURS, 'timm', FLOOR]
    assert case['ratios']['speedup'] == pytest.approx(timm['seconds'] / ours['seconds'])
    assert case['ratios']['floor'] == pytest.approx(ours['seconds'] / floor['seconds']) and case['ratios']['floor'] > 1
    assert case['ratios']['memory'] == pytest.approx(ours['memory']['peak'] / timm['memory']['peak'])
    assert timm['difference'] < 1e-4 and 50 < ours['memory']['peak'] < 10000 and ours['memory']['step'] > 1
    assert 'not installed: none' in result.stdout and 'fastest peer / ours' in result.stdout


def test_absent_peers_are_named(monkeypatch):

    def absent(*args):
        raise ImportError('no such package')

    monkeypatch.setattr(benchmark.peers, 'PEERS', {'timm': benchmark.peers.timm, 'other': absent})
    assert benchmark.installed_peers() == (['timm'], ['other'])


def test_a_peer_that_computes_something_else_shows(monkeypatch):
    case = Case(size=64, window=4)

    def other(arch, image_size, windows, references):  # the same names, other reference windows
        return benchmark.peers.PEERS['timm'](arch, image_size, windows, (16, ) * 4)

    monkeypatch.setitem(benchmark.peers.PEERS, 'other', other)
    assert benchmark.difference('timm', case) < 1e-4 < 1e-3 < benchmark.difference('other', case)


def test_the_matrix_products_are_those_of_the_forward_pass():
    """Their multiplications are counted by PyTorch during a real forward pass."""
    from torch.utils.flop_counter import FlopCounterMode
    for case in (Case(size=64, window=4, batch=2), Case(size=100, window=8)):
        products = benchmark.matrix_products(case)
        ours = 2 * sum(count * batch * rows * inner * columns
                       for (batch, rows, inner, columns), count in products.items())
        model = SwinTransformerV2(case.arch, case.window, attention='eager').eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.randn(case.batch, 3, case.size, case.size))
        # Beyond them only the small MLPs of the position biases.
        table = 2 * sum(512 * (2 + block.attn.num_heads) * (2 * side - 1)**2
                        for stage, side in zip(model.stages, case.windows()) for block in stage.blocks)
        assert counter.get_total_flops() == ours + table


def test_bad_input(error_of):
    assert "unknown SwinV2 arch 'mini'" in error_of('tools/benchmark.py', '--arch', 'mini')
    assert '--size 0 found, but it is at least 1' in error_of('tools/benchmark.py', '--size', 0)
    assert 'fp16 on a CPU' in error_of('tools/benchmark.py', '--device', 'cpu', '--dtype', 'fp16')
    if not torch.cuda.is_available():
        assert 'PyTorch sees no GPU here' in error_of('tools/benchmark.py', '--device', 'cuda')
    assert '--peers vim found, but those installed are' in error_of('tools/benchmark.py', '--peers', 'vim')
    assert '--threads 0 and' in error_of('tools/benchmark.py', '--threads', 0)
