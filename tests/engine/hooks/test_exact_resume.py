"""A training that is cut ends as one that is not, whatever draws random numbers in between."""

import pickle
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmvitscale.datasets.seeded_batches import SeededBatch, SeededBatches, seed_everything
from tests.helpers import toy

pytestmark = pytest.mark.unit

BACKBONE = dict(
    type='mmvitscale.SwinTransformerV2',
    arch=dict(embed_dims=8, depths=(1, 1), num_heads=(1, 1)),
    window_size=4,
    drop_path_rate=0.5,
)


class Drawn(toy.Images):
    """Images of random numbers of all three kinds."""

    def __getitem__(self, index):
        image = torch.rand(3, 64, 64) + random.random() + np.random.rand()
        return self.pipeline(dict(inputs=image + index))


@HOOKS.register_module(force=True)
class Draws(Hook):
    """Draws between the steps what an undisturbed training would not: as a validation, or a new iterator, does."""

    def after_train_iter(self, runner, *args, **kwargs):
        random.random(), np.random.rand(), torch.rand(1)


def train(work_dir, monkeypatch, max_iters, hooks=(), seed=5, **options):
    monkeypatch.setattr(toy, 'Images', Drawn)
    torch.manual_seed(0)
    options = dict(dict(randomness=dict(seed=seed), optimizer='AdamW'), **options)
    return toy.train(work_dir, BACKBONE, hooks, max_iters, **options)


def parameters(runner):
    return torch.cat([parameter.detach().flatten() for parameter in runner.model.parameters()])


@pytest.mark.integration
@pytest.mark.parametrize('num_workers', [0, 2])
def test_a_resumed_training_ends_with_bit_identical_weights(num_workers, tmp_path, monkeypatch):
    whole = train(tmp_path / 'whole', monkeypatch, 5, num_workers=num_workers)
    train(tmp_path / 'cut', monkeypatch, 3, [dict(type='Draws')], num_workers=num_workers)
    resumed = train(tmp_path / 'cut', monkeypatch, 5, num_workers=num_workers, resume=True)
    assert torch.equal(parameters(resumed), parameters(whole))
    # In whatever process a sample is loaded.
    other = train(tmp_path / 'other', monkeypatch, 5, num_workers=2 - num_workers)
    assert torch.equal(parameters(other), parameters(whole))


def test_resuming_without_the_hook_ends_with_other_weights(tmp_path, monkeypatch):
    """What the test above sees."""
    off = dict(exact_resume=None, checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1))
    runs = []
    for name, stops in (('whole', [4]), ('cut', [2, 4])):
        for stop in stops:
            runner = train(tmp_path / name, monkeypatch, stop, default_hooks=off, resume=stop != stops[0])
        runs.append(parameters(runner))
    assert not torch.equal(*runs)


def test_resume_restores_the_sampler_seed_where_no_seed_is_given(tmp_path, monkeypatch):
    options = dict(randomness=dict(seed=None), sampler=dict(type='InfiniteSampler', shuffle=True))
    train(tmp_path, monkeypatch, 2, **options)
    first = torch.load(tmp_path / 'iter_2.pth', weights_only=False)
    resumed = train(tmp_path, monkeypatch, 3, resume=True, **options)
    assert resumed.train_dataloader.sampler.seed == first['exact_resume']['sampler_seed']
    assert resumed.seed == first['meta']['seed']


def indices_seen(runner):
    return runner.train_dataloader.dataset.seen


class Noted(Drawn):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __getitem__(self, index):
        self.seen.append(int(index))
        return super().__getitem__(index)


@pytest.mark.parametrize('loop', ['epochs', 'passes'])
def test_resume_within_an_epoch_continues_with_the_same_samples(loop, tmp_path, monkeypatch):
    """Of 4 batches an epoch the first two are not loaded again; a finite sampler is shuffled as in the pass it was in."""
    limits = dict(by_epoch=True, max_epochs=3) if loop == 'epochs' else dict(by_epoch=False, max_iters=12)
    options = dict(sampler=dict(type='DefaultSampler', shuffle=True), train_cfg=limits)
    monkeypatch.setattr('mmengine.runner.loops.time', SimpleNamespace(sleep=lambda seconds: None))  # between passes

    class Stops(Hook):
        priority = 'LOWEST'

        def after_train_iter(self, runner, *args, **kwargs):
            if runner.iter + 1 == 6:
                raise KeyboardInterrupt

    whole = train(tmp_path / 'whole', monkeypatch, 12, images=Noted(), **options)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / 'cut', monkeypatch, 12, [Stops()], images=Noted(), **options)
    resumed = train(tmp_path / 'cut', monkeypatch, 12, images=Noted(), resume=True, **options)
    assert len(indices_seen(whole)) == 24 and len(set(indices_seen(whole)[:8])) == 8
    assert indices_seen(resumed) == indices_seen(whole)[12:] and indices_seen(whole)[8:16] != indices_seen(whole)[16:]
    assert torch.equal(parameters(resumed), parameters(whole))


@pytest.mark.integration
@pytest.mark.parametrize('loop', ['epochs', 'passes'])
def test_resume_is_exact_with_a_batch_sampler_that_holds_the_sampler(loop, tmp_path, monkeypatch):
    """As mmdet's configs have it. PyTorch's loader shows another sampler in its place, and no seed is given."""
    from mmdet.datasets import AspectRatioBatchSampler

    monkeypatch.setattr('mmengine.runner.loops.time', SimpleNamespace(sleep=lambda seconds: None))

    class Shaped(Noted):
        def get_data_info(self, index):
            return dict(width=1 + index % 3, height=2)

    limits = dict(by_epoch=True, max_epochs=3) if loop == 'epochs' else dict(by_epoch=False, max_iters=12)
    options = dict(
        sampler=dict(type='DefaultSampler', shuffle=True),
        train_cfg=limits,
        randomness=dict(seed=None),
        batch_sampler=dict(type=AspectRatioBatchSampler),
    )
    whole = train(tmp_path, monkeypatch, 12, images=Shaped(), **options)
    resumed = train(tmp_path, monkeypatch, 12, images=Shaped(), resume=True, load_from=str(tmp_path / 'iter_6.pth'), **options)
    assert indices_seen(resumed) == indices_seen(whole)[12:]
    assert torch.equal(parameters(resumed), parameters(whole))


def test_resume_at_the_end_of_an_epoch_is_exact(tmp_path, monkeypatch):
    """Nothing of the epoch is left; and where an epoch has another length, all of the next one is seen."""
    options = dict(sampler=dict(type='DefaultSampler', shuffle=True), train_cfg=dict(by_epoch=True, max_epochs=2))
    whole = train(tmp_path, monkeypatch, 8, images=Noted(), **options)
    resumed = train(tmp_path, monkeypatch, 8, images=Noted(), resume=True, load_from=str(tmp_path / 'iter_4.pth'), **options)
    assert resumed.iter == 8 and indices_seen(resumed) == indices_seen(whole)[8:]
    assert torch.equal(parameters(resumed), parameters(whole))

    class Fewer(Noted):
        def __len__(self):
            return 6

    other = train(tmp_path, monkeypatch, 8, images=Fewer(), resume=True, load_from=str(tmp_path / 'iter_2.pth'), **options)
    assert len(indices_seen(other)) == 12


def test_checkpoints_amid_gradient_accumulation_are_warned_of(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr('mmengine.logging.MMLogger.warning', lambda self, line, *args: lines.append(line))
    train(tmp_path, monkeypatch, 2, accumulative_counts=2)
    assert any('no multiple of accumulative_counts=2' in line for line in lines)


def test_seeding_differs_by_position_and_is_reproducible():
    draws = []
    for place in ((0, 0, 1, 0), (0, 0, 0, 1), (0, 1, 0, 0), (1, 0, 0, 0), (0, 0, 1, 0)):
        seed_everything(*place)
        draws.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert len(set(draws)) == 4 and draws[0] == draws[-1]


def test_a_seeded_batch_survives_pickling_and_seeds_when_iterated():
    random.seed(1)
    state = random.getstate()
    batch = pickle.loads(pickle.dumps(SeededBatch([3, 4], (1, 2, 3))))
    assert random.getstate() == state and batch[:] == [3, 4] and batch.place == (1, 2, 3)
    assert list(batch) == [3, 4] and random.getstate() != state


def test_samples_of_other_batches_seeds_and_processes_draw_other_numbers():
    """Not the same augmentation in every batch, which resumes exactly, too."""
    drawn = [[random.random() for _ in SeededBatch([0, 0], place)] for place in ((1, 0, 2), (1, 0, 3), (2, 0, 2), (1, 1, 2))]
    assert len({number for numbers in drawn for number in numbers}) == 8


def test_batch_numbers_continue_across_epochs_and_resume():
    sampler = torch.utils.data.SequentialSampler(range(5))
    batches = SeededBatches(torch.utils.data.BatchSampler(sampler, 2, False), 7, 0)
    batches.begin(6, 1)
    assert [(batch[:], batch.place) for batch in batches] == [([2, 3], (7, 0, 7)), ([4], (7, 0, 8))]
    batches.begin(0, 4, endless=True)
    assert [batch.place[-1] for batch in batches] == [4, 5]
    assert [batch.place[-1] for batch in batches] == [6, 7, 8] and len(batches) == 3
