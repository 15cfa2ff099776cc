"""Two gloo processes, each way of sharing the work between them, and one process alone."""

import json
import os
import subprocess
import sys

import pytest
import torch

from mmvitscale.checkpoints.metadata import META_KEY
from mmvitscale.config.embedded import META_KEY as CONFIG_KEY
from mmvitscale.datasets import mini
from mmvitscale.profiling.memory_plan import shares, sizes_of
from mmvitscale.utils.choices import STATISTICS
from tests.engine.strategies.two_processes import steady, train
from tests.helpers.commands import ROOT

pytestmark = pytest.mark.slow

SHARED_OUT = ('zero1', 'fsdp', 'deepspeed_zero1')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return mini.write_dataset(tmp_path_factory.mktemp('data') / 'mini', train=8, val=3, size=64) / 'ADEChallengeData2016'


@pytest.fixture(scope='module')
def folder(tmp_path_factory, data):
    """Where two processes have done it all."""
    folder = tmp_path_factory.mktemp('two')
    result = subprocess.run(
        [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--standalone',
            '--nproc_per_node=2',
            '-m',
            'tests.engine.strategies.two_processes',
            str(folder),
            str(data),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)},
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return folder


@pytest.fixture(scope='module')
def found(folder):
    return json.loads((folder / 'found.json').read_text())


def checkpoint(path):
    return torch.load(path, weights_only=False)


def largest_difference(a, b):
    assert a.keys() == b.keys()
    return max((a[key].double() - b[key].double()).abs().max().item() for key in a)


@pytest.mark.parametrize('name', SHARED_OUT)
def test_sharded_training_equals_ddp(name, found, folder):
    assert found[name]['losses'] == pytest.approx(found['ddp']['losses'], abs=1e-4)
    ours, theirs = (checkpoint(folder / way / 'iter_4.pth') for way in (name, 'ddp'))
    assert largest_difference(ours['state_dict'], theirs['state_dict']) < 1e-5
    assert ours['meta']['iter'] == theirs['meta']['iter'] == 4
    assert ours['meta'][META_KEY] == theirs['meta'][META_KEY]
    assert ours['meta'][CONFIG_KEY]['config'] and theirs['meta'][CONFIG_KEY]['config']


def test_fsdp_shards_each_block_separately(found):
    assert all(found['fsdp']['sharded']) and not any(found['ddp']['sharded'])


@pytest.mark.parametrize('name', SHARED_OUT)
def test_sharded_optimizer_states_are_saved_in_the_format_of_ddp(name, folder):
    ours, theirs = (checkpoint(folder / way / 'iter_4.pth')['optimizer'] for way in (name, 'ddp'))
    assert len(ours['param_groups']) > 5  # by depth, with and without decay
    for mine, other in zip(ours['param_groups'], theirs['param_groups'], strict=True):
        assert {key: mine[key] for key in ('params', 'lr', 'weight_decay')} == {
            key: other[key] for key in ('params', 'lr', 'weight_decay')
        }
    assert ours['state'].keys() == theirs['state'].keys()
    for index, state in theirs['state'].items():
        assert largest_difference(ours['state'][index], state) < 1e-5


def test_optimizer_state_bytes_per_process_match_the_memory_plan(found, data, tmp_path):
    cfg = steady(data, tmp_path)
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope('mmseg')
    sizes = sizes_of(MODELS.build(cfg.model), cfg)
    for name in ('ddp', *SHARED_OUT):
        planned = shares(sizes, name, 2).states - (4 * sizes.trained // 2 if name == 'deepspeed_zero1' else 0)
        assert found[name]['states'] == pytest.approx([planned, planned], rel=0.05)
    assert sum(found['zero1']['states']) == pytest.approx(found['ddp']['states'][0], rel=0.01)


@pytest.mark.parametrize(
    'before, after', [('ddp', 'fsdp'), ('fsdp', 'deepspeed_zero1'), ('deepspeed_zero1', 'zero1'), ('zero1', 'ddp')]
)
def test_a_checkpoint_of_one_strategy_resumes_in_another(before, after, found, folder):
    assert found[f'{before}-{after}']['losses'] == pytest.approx(found['ddp']['losses'][2:], abs=1e-4)
    ours, never_stopped = (checkpoint(folder / way / 'iter_4.pth') for way in (f'{before}-{after}', 'ddp'))
    assert largest_difference(ours['state_dict'], never_stopped['state_dict']) < 1e-5


def test_a_nan_loss_stops_all_processes_and_its_own_process_reports_it(found, folder):
    first, second = found['poisoned']
    assert first == 'the loss of another process is NaN or Inf'
    kept = folder / 'poisoned' / 'non_finite' / 'iter_3_rank1.pth'
    assert 'the loss is nan at iteration 3' in second and 'came out of decode_head.conv_seg' in second and str(kept) in second
    assert kept.is_file() and len(list(kept.parent.iterdir())) == 1


def test_a_resumed_distributed_training_is_bit_identical(found, folder):
    assert found['exact-cut']['losses'] == found['exact']['losses'][2:] != found['ddp']['losses'][2:]
    ours, never_stopped = (checkpoint(folder / way / 'iter_4.pth') for way in ('exact-cut', 'exact'))
    assert largest_difference(ours['state_dict'], never_stopped['state_dict']) == 0
    for index, state in never_stopped['optimizer']['state'].items():
        assert largest_difference(ours['optimizer']['state'][index], state) == 0


@pytest.mark.parametrize('before', ['fsdp', 'deepspeed_zero1'])
def test_a_single_process_resumes_a_checkpoint_of_two(before, found, folder, data, tmp_path, told_by_log):
    cfg = steady(data, tmp_path / before, batch=4, load_from=str(folder / before / 'iter_2.pth'), resume=True)
    runner, losses = train(cfg, launcher='none')
    assert losses == pytest.approx(found['ddp']['losses'][2:], abs=1e-4)
    assert '2 processes x 2 images x 1 batches for an update, here it is resumed with 1 processes x 4 images' in told_by_log()
    assert 'the same batch' in told_by_log()
    # what it saw in validation is what two processes saw, of three images, too
    both = [
        json.loads(line)['mIoU']
        for path in (folder / 'ddp').rglob('vis_data/scalars.json')
        for line in path.read_text().splitlines()
        if 'mIoU' in line
    ][-1]
    assert runner.message_hub.get_scalar('val/mIoU').current() == pytest.approx(both, abs=0.02)


@pytest.fixture
def told_by_log(tmp_path):
    return lambda: ''.join(path.read_text() for path in tmp_path.rglob('*.log'))


@pytest.mark.parametrize('name, norm, iters', [('sgd', None, 10), ('bn', dict(type='BN'), 3)])
def test_two_processes_equal_one_process_with_their_joint_batch(name, norm, iters, found, folder, data, tmp_path):
    sgd = dict(type='SGD', lr=0.05, momentum=0.9)
    runner, losses = train(steady(data, tmp_path / name, batch=4, optimizer=sgd, norm=norm, iters=iters), launcher='none')
    assert losses == pytest.approx(found[name]['losses'], abs=1e-5)
    saved = checkpoint(folder / name / f'iter_{iters}.pth')['state_dict']
    assert largest_difference(saved, runner.model.state_dict()) < 1e-5


@pytest.mark.parametrize(
    'name',
    [
        'batch_norm',
        're_attention',
        're_attention_of_torch',
        're_attention_carried',
        'windows',
        *(f'padded_{statistics}' for statistics in STATISTICS),
    ],
)
def test_synchronised_norms_equal_those_of_the_joint_batch(name, found):
    assert max(found['norm'][name]) < 1e-10


def test_checkpointed_blocks_learn_the_same_under_fsdp(found):
    assert found['fsdp-more']['losses'] == pytest.approx(found['ddp']['losses'][:2], abs=1e-4)


def test_the_attention_monitor_logs_the_same_values_under_fsdp(folder):
    seen = [
        [
            json.loads(line)
            for path in (folder / name).rglob('vis_data/scalars.json')
            for line in path.read_text().splitlines()
            if 'attention/similarity' in line
        ]
        for name in ('ddp-more', 'fsdp-more')
    ]
    assert len(seen[0]) == 2 and seen[0] == [pytest.approx(line, abs=1e-4) for line in seen[1]]


@pytest.mark.parametrize('name', ['fsdp-amp', 'deepspeed_zero1-amp', 'ds-16'])
def test_mixed_precision_is_mixed_and_saved_in_float32(name, found, folder):
    losses, exact = found[name]['losses'], found['ddp']['losses'][:2]
    assert losses == pytest.approx(exact, abs=0.05) and losses != pytest.approx(exact, abs=1e-6)
    state = checkpoint(folder / name / 'iter_2.pth')['state_dict']
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}


@pytest.mark.parametrize('name', ['ddp', 'zero1'])
@pytest.mark.parametrize('batch', [0, 1], ids=['last', 'first'])
def test_a_batch_left_out_of_an_accumulated_update_keeps_the_replicas_equal(name, batch, found):
    """Also where it is the one at which DDP averages gradients."""
    apart, wrong = found['left-out'][name][batch]
    assert apart == 0 and wrong < 1e-6
