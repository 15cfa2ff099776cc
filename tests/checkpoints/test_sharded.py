"""Sharded checkpoints, as DeepSpeed and torch.distributed.checkpoint leave them."""

import pickle
import shutil
import warnings

import pytest
import torch
import torch.distributed.checkpoint as distributed

from mmvitscale.checkpoints.sharded import read_sharded
from mmvitscale.errors import InputError
from mmvitscale.models import SwinTransformerV2
from tests.helpers.hostile import Attack

pytestmark = pytest.mark.unit

ARCH = dict(embed_dims=16, depths=(1, 1), num_heads=(1, 2))


@pytest.fixture
def backbone():
    return SwinTransformerV2(ARCH, window_size=4)


@pytest.fixture
def of_deepspeed(tmp_path, backbone):
    """A folder as DeepSpeed's ZeRO-1 of two processes writes it: 16-bit weights, float32 ones in pieces."""
    state = {f'backbone.{name}': value for name, value in backbone.state_dict().items()}
    names = [f'backbone.{name}' for name, _ in backbone.named_parameters()]
    groups = [[n for n in names if state[n].ndim > 1], [n for n in names if state[n].ndim <= 1]]
    step = tmp_path / 'run' / 'step3'
    step.mkdir(parents=True)
    (tmp_path / 'run' / 'latest').write_text('step3')
    torch.save(
        dict(
            module={name: value.bfloat16() if value.is_floating_point() else value for name, value in state.items()},
            param_shapes=[{name: state[name].shape for name in group} for group in groups],
        ),
        step / 'mp_rank_00_model_states.pt',
    )
    pieces = []
    for group in groups:
        flat = torch.cat([state[name].flatten() for name in group])
        half = -(-len(flat) // 2)
        pieces.append([flat[:half], torch.cat((flat[half:], flat.new_zeros(2 * half - len(flat))))])  # filled up at the end
    for rank in (0, 1):
        torch.save(
            dict(
                optimizer_state_dict=dict(
                    partition_count=[2, 2], single_partition_of_fp32_groups=[piece[rank] for piece in pieces]
                )
            ),
            step / f'bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt',
        )
    return tmp_path / 'run', state


def equal(found, expected):
    assert found.keys() == expected.keys()
    return all(torch.equal(found[key], expected[key]) for key in expected)


def test_deepspeed_sharded_checkpoints_give_the_exact_weights(of_deepspeed):
    folder, state = of_deepspeed
    assert equal(read_sharded(folder)['state_dict'], state)  # by latest
    assert equal(read_sharded(folder / 'step3')['state_dict'], state)


def test_deepspeed_checkpoints_with_missing_or_extra_shards_are_refused(of_deepspeed):
    folder, _ = of_deepspeed
    (folder / 'step3/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt').unlink()
    with pytest.raises(InputError, match='the pieces of 1 processes, but 2 saved it'):
        read_sharded(folder)
    shutil.copy(folder / 'step3/mp_rank_00_model_states.pt', folder / 'step3/zero_pp_rank_1_mp_rank_00_model_states.pt')
    with pytest.raises(InputError, match='2 model states.*zero_to_fp32.py'):
        read_sharded(folder)


@pytest.fixture
def of_torch(tmp_path, backbone):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        distributed.save(
            dict(state_dict=backbone.state_dict(), optimizer=dict(exp_avg=torch.ones(3)), iter=5),
            checkpoint_id=tmp_path / 'pieces',
        )
    return tmp_path / 'pieces', backbone.state_dict()


def test_torch_distributed_checkpoints_give_the_exact_weights(of_torch):
    folder, state = of_torch
    assert equal(read_sharded(folder)['state_dict'], state)


def test_code_in_sharded_checkpoints_does_not_run(of_torch, of_deepspeed, tmp_path):
    folder, _ = of_torch
    (folder / '.metadata').write_bytes(pickle.dumps(Attack(tmp_path / 'marker')))
    with pytest.raises(InputError, match='whose loading would run code'):
        read_sharded(folder)
    folder, _ = of_deepspeed
    torch.save(dict(module={}, meta=Attack(tmp_path / 'marker')), folder / 'step3/mp_rank_00_model_states.pt')
    with pytest.raises(InputError, match='whose loading would run code'):
        read_sharded(folder)
    assert not (tmp_path / 'marker').exists()


def test_damaged_shards_and_other_folders_are_refused(of_torch, tmp_path):
    folder, _ = of_torch
    next(folder.glob('*.distcp')).write_bytes(b'nothing')
    with pytest.raises(InputError, match='is damaged'):
        read_sharded(folder)
    with pytest.raises(InputError, match='holds no checkpoint of DeepSpeed'):
        read_sharded(tmp_path)
