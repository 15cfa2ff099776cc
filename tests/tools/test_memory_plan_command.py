"""The plan as a user asks for it."""

import json

import pytest

pytestmark = pytest.mark.integration

MINI = 'configs/mini/swinv2_upernet_mini.py'


@pytest.mark.slow
def test_the_plan_divides_parameters_and_states_by_strategy(run_here, tmp_path):
    code, logged, err = run_here(
        'tools/analysis/memory_plan.py', MINI, '--gpus', 1, 4, '--gpu-memory', 3, '--json', tmp_path / 'plan.json'
    )
    assert code == 0, err
    assert 'decode_head' in logged and 'checkpointing, sequential attention' in logged
    plan = json.loads((tmp_path / 'plan.json').read_text())
    assert plan['size'] == [128, 128] and plan['images'] == 8
    rows = {(row['strategy'], row['gpus']): row for row in plan['plans']}
    assert len(rows) == 8
    weights = 4 * plan['sizes']['parameters']
    assert rows['ddp', 4]['shares']['parameters'] == weights
    assert rows['fsdp', 4]['shares']['parameters'] == weights // 4
    assert rows['zero1', 4]['shares']['states'] == rows['zero1', 1]['shares']['states'] // 4
    assert all(row['fits']['3.0']['setting'] == 'fused attention' for row in rows.values())  # nothing need be saved here
    assert all(
        row['own'] >= sum(row['shares'][name] for name in ('parameters', 'gradients', 'states')) for row in rows.values()
    )


@pytest.mark.slow
def test_a_detector_without_image_size_is_planned_at_the_given_size(run_here):
    code, logged, err = run_here(
        'tools/analysis/memory_plan.py',
        'swinv2_retinanet_mini',
        '--gpus',
        2,
        '--strategy',
        'fsdp',
        '--batch-size',
        1,
        '--image-size',
        64,
    )
    assert code == 0 and 'fsdp' in logged.splitlines()[-2], err


def test_invalid_plan_options_are_refused_with_the_reason(error_of):
    tool = 'tools/analysis/memory_plan.py'
    assert '--gpus and --batch-size are 1 or more' in error_of(tool, MINI, '--gpus', 0)
    assert 'of which 2 GB are reserved' in error_of(tool, MINI, '--gpu-memory', 1)
    assert 'add --precision bf16 or fp16' in error_of(tool, MINI, '--16-bit-weights')
    assert 'one side, or height and width' in error_of(tool, MINI, '--image-size', 1, 2, 3)
