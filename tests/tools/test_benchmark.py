"""The benchmark measures what it says, with the reference_models that are there."""

import json
import subprocess
import sys

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmvitscale.models.deepvit.variants import DEEPVIT
from mmvitscale.models.swin_v2.backbone import SwinTransformerV2
from mmvitscale.profiling import benchmark
from mmvitscale.profiling.benchmark import LOWER_BOUND, OURS, OURS_EAGER, PLAIN, Case, Implementation
from mmvitscale.utils import cpu
from tests.helpers.commands import run

pytestmark = pytest.mark.integration


@pytest.mark.slow
def test_report_ratios_follow_from_the_measured_times_and_memory(tmp_path):
    path = tmp_path / 'report.json'
    result = run(
        'tools/benchmark.py',
        '--image-size',
        64,
        '--window',
        4,
        '--mode',
        'training',
        '--rounds',
        2,
        '--measure-memory',
        '--variant',
        'plain',
        'checkpointed',
        '--implementations',
        'timm',
        'torchvision',
        '--threads',
        2,
        '--profile',
        '--json',
        path,
    )
    report = json.loads(path.read_text())
    (case,) = report['cases']
    rows = {(item['implementation']['name'], item['implementation']['variant']): item for item in case['results']}
    assert list(rows) == [
        (OURS, 'plain'),
        ('timm', 'plain'),
        ('torchvision', 'plain'),
        (OURS, 'checkpointed'),
        ('timm', 'checkpointed'),
        (LOWER_BOUND, 'plain'),
    ]
    assert 'torchvision has no checkpointing of its own' in result.stdout
    for variant, suffix in (('plain', ''), ('checkpointed', ', checkpointed')):
        baselines = [row for (name, its), row in rows.items() if its == variant and name not in (OURS, LOWER_BOUND)]
        fastest, leanest = (
            min(values) for values in ([row['seconds'] for row in baselines], [row['memory']['peak'] for row in baselines])
        )
        assert case['ratios'][f'speedup{suffix}'] == pytest.approx(fastest / rows[OURS, variant]['seconds'])
        assert case['ratios'][f'memory{suffix}'] == pytest.approx(rows[OURS, variant]['memory']['peak'] / leanest)
    lower_bound = rows[OURS, 'plain']['seconds'] / rows[LOWER_BOUND, 'plain']['seconds']
    assert case['ratios']['lower_bound'] == pytest.approx(lower_bound)
    assert rows['timm', 'plain']['difference'] < 1e-4
    assert 50 < rows[OURS, 'plain']['memory']['peak'] < 10000 and rows[OURS, 'plain']['memory']['step'] > 1
    assert 'not installed: none' in result.stdout and 'fastest other / ours' in result.stdout
    kinds = {share['kind']: share for share in case['profile']}
    assert kinds['matrix products']['count'] > 100 and kinds['other']['seconds'] < 0.5 * sum(
        share['seconds'] for share in kinds.values()
    )
    assert all(name in report['machine'] for name in cpu.features())


def test_deepvit_is_compared_with_its_official_form_and_plain_attention(tmp_path):
    path = tmp_path / 'report.json'
    run(
        'tools/benchmark.py',
        '--arch',
        'deepvit-16b',
        '--depth',
        2,
        '--image-size',
        64,
        '--mode',
        'training',
        '--rounds',
        1,
        '--json',
        path,
    )
    (case,) = json.loads(path.read_text())['cases']
    rows = {item['implementation']['name']: item for item in case['results']}
    assert set(rows) == {OURS, OURS_EAGER, 'official form', benchmark.reference_models.TIMM_VIT, PLAIN, LOWER_BOUND}
    for name in (OURS_EAGER, 'official form', benchmark.reference_models.TIMM_VIT):
        assert rows[name]['difference'] < 1e-4
    assert case['ratios']['plain'] == pytest.approx(rows[OURS]['seconds'] / rows[PLAIN]['seconds'])
    assert case['ratios']['speedup'] == pytest.approx(rows['official form']['seconds'] / rows[OURS]['seconds'])


@pytest.mark.parametrize('name', ['timm', 'Hugging Face', 'mmpretrain', 'official form', benchmark.reference_models.TIMM_VIT])
def test_baselines_with_checkpointing_recompute_their_blocks(name):
    case = Case(size=64, window=4, mode='training')
    if name in benchmark.reference_models.DEEPVIT_REFERENCE_MODELS:
        case = Case('deepvit-16b', 64, 0, 'training', depth=2)
    counts = []
    for variant in ('plain', 'checkpointed'):
        model, outputs_of = benchmark._build(Implementation(name, variant), case)
        calls = []
        model.train()  # returns nothing in mmpretrain
        for part in model.modules():
            if isinstance(part, torch.nn.Linear):
                part.register_forward_hook(lambda *_: calls.append(1))
        image = torch.randn(1, 3, 64, 64)
        sum(output.mean() for output in outputs_of(image)).backward()
        counts.append(len(calls))
    assert counts[1] > 1.5 * counts[0]


def test_memory_is_that_of_the_process_alone():
    """Not its parent's, which ``getrusage`` would give after a fork."""
    held = torch.ones(2**27)  # 512 MB
    command = [sys.executable, '-c', 'from mmvitscale.profiling.benchmark import _resident; print(_resident("VmHWM"))']
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
    assert 2**26 < peak < benchmark._resident('VmRSS') and held.sum() > 0


def test_missing_baselines_are_listed(monkeypatch):

    def absent(*args):
        raise ImportError('no such package')

    monkeypatch.setattr(
        benchmark.reference_models, 'REFERENCE_MODELS', {'timm': benchmark.reference_models.timm, 'other': absent}
    )
    assert benchmark.others(Case()) == (['timm'], ['other'])


def test_a_baseline_that_computes_other_outputs_is_detected(monkeypatch):
    case = Case(size=64, window=4)

    def other(arch, image_size, windows, references):  # the same names, other pretrained windows
        return benchmark.reference_models.REFERENCE_MODELS['timm'](arch, image_size, windows, (16,) * 4)

    monkeypatch.setitem(benchmark.reference_models.REFERENCE_MODELS, 'other', other)
    assert benchmark.difference('timm', case) < 1e-4 < 1e-3 < benchmark.difference('other', case)


def test_matrix_products_equal_the_flop_counter_of_pytorch():
    """Their multiplications are counted by PyTorch during a real forward pass."""
    for case in (Case(size=64, window=4, batch=2), Case(size=100, window=8)):
        products = benchmark.matrix_products(case)
        ours = 2 * sum(count * batch * rows * inner * columns for (batch, rows, inner, columns), count in products.items())
        model = SwinTransformerV2(case.arch, case.window, attention='eager').eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.randn(case.batch, 3, case.size, case.size))
        # Beyond them only the small MLPs of the position biases.
        table = 2 * sum(
            512 * (2 + block.attn.num_heads) * (2 * side - 1) ** 2
            for stage, side in zip(model.stages, case.windows())
            for block in stage.blocks
        )
        assert counter.get_total_flops() == ours + table


def test_matrix_products_of_deepvit_equal_those_of_plain_attention():
    case = Case('deepvit-16b', 100, 0, depth=3, batch=2)
    ours = 2 * sum(
        count * batch * rows * inner * columns
        for (batch, rows, inner, columns), count in benchmark.matrix_products(case).items()
    )
    model, outputs_of = benchmark._build(Implementation(PLAIN), case)
    # In single steps: what the fused kernel for CPUs multiplies is not counted.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        outputs_of(torch.randn(2, 3, 100, 100))
    assert counter.get_total_flops() == ours


@pytest.mark.parametrize('arch', sorted(DEEPVIT.archs))
def test_every_deepvit_variant_has_baselines_with_equal_outputs(arch):
    case = Case(arch, 32, 0, depth=1)
    present, absent = benchmark.others(case)
    assert {OURS_EAGER, PLAIN} <= set(present) and not absent
    assert ('official form' in present) == (arch.startswith('deepvit') and arch.endswith('b'))
    for name in set(present) - {PLAIN}:
        assert benchmark.difference(name, case) < 1e-4


def test_whole_steps_of_configs_are_compared_with_the_first(run_here, tmp_path):
    path = tmp_path / 'report.json'
    code, out, err = run_here(
        'tools/benchmark.py',
        '--whole',
        'swinv2_upernet_mini',
        'deepvit_upernet_mini',
        '--image-size',
        64,
        '--batch-size',
        2,
        '--rounds',
        2,
        '--profile',
        '--cfg-options',
        'model.auxiliary_head.channels=16',
        '--json',
        path,
    )
    assert code == 0, err
    (case,) = json.loads(path.read_text())['cases']
    first, second = case['results']
    assert first['shape'] == second['shape'] == [2, 3, 64, 64] and first['case']['mode'] == 'training'
    for result, rounds in zip((first, second), case['rounds']):
        assert len(rounds) == 2
        assert result['seconds']['step'] == pytest.approx(sum(sum(parts.values()) for parts in rounds) / 2)
    (ratios,) = case['ratios']
    assert set(ratios) == set(first['seconds'])  # the second has a neck, too
    for part, ratio in ratios.items():
        assert ratio == pytest.approx(second['seconds'][part] / first['seconds'][part])
    assert 'x the first' in out and 'training, fp32, batch 2, 64 px' in out
    for profile in case['profiles']:
        counts = {part: {share['kind']: share['count'] for share in shares} for part, shares in profile.items()}
        assert set(counts) > {'', 'backbone', 'decode_head', 'auxiliary_head', 'backward', 'optimizer'}
        assert counts['backward']['matrix products'] > counts['backbone']['matrix products'] > 10
        assert counts['']['matrix products'] == sum(
            own.get('matrix products', 0) for part, own in counts.items() if part
        )  # none is of two parts, or of none


def test_memory_of_a_whole_step_is_that_of_a_process_for_each(run_here, tmp_path):
    path = tmp_path / 'report.json'
    arguments = ('--whole', 'swinv2_upernet_mini', '--image-size', 64, '--rounds', 0, '--measure-memory')
    code, _, err = run_here('tools/benchmark.py', *arguments, '--json', path)
    assert code == 0, err
    (case,) = json.loads(path.read_text())['cases']
    memory = case['results'][0]['memory']
    assert 100 < memory['peak'] < 10000 and 1 < memory['step'] < memory['peak'] and not case['ratios']


def test_options_that_no_config_takes_are_refused_with_the_reason(error_of):
    for option, value in (('arch', 'tiny'), ('window', 8), ('depth', 0), ('attention', 'auto'), ('implementations', 'timm')):
        found = error_of('tools/benchmark.py', '--whole', 'swinv2_upernet_mini', f'--{option}', value)
        assert f'--{option} found with --whole' in found
    assert 'config upernet is not there' in error_of('tools/benchmark.py', '--whole', 'upernet')
    assert '--dtype fp16 found' in error_of('tools/benchmark.py', '--whole', 'swinv2_upernet_mini', '--dtype', 'fp16')
    assert '--cfg-options found without --whole' in error_of('tools/benchmark.py', '--cfg-options', 'a=1')


def test_invalid_benchmark_options_are_refused_with_the_reason(error_of):
    assert "unknown arch 'mini'" in error_of('tools/benchmark.py', '--arch', 'mini')
    assert '--image-size 0 found, but it is at least 1' in error_of('tools/benchmark.py', '--image-size', 0)
    assert 'fp16 on a CPU' in error_of('tools/benchmark.py', '--device', 'cpu', '--dtype', 'fp16')
    if not torch.cuda.is_available():
        assert 'PyTorch sees no GPU here' in error_of('tools/benchmark.py', '--device', 'cuda')
    assert '--implementations vim found, but those installed are' in error_of('tools/benchmark.py', '--implementations', 'vim')
    assert "unknown attention 'fused'" in error_of('tools/benchmark.py', '--arch', 'deepvit-s', '--attention', 'fused')
    assert '--threads 0 and' in error_of('tools/benchmark.py', '--threads', 0)
