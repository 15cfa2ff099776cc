"""A training ends when its metric improves no more, and not before, however often it is interrupted."""

import logging
import math

import pytest
from mmengine.evaluator import BaseMetric
from mmengine.hooks import EarlyStoppingHook as MMEngines
from mmengine.registry import METRICS

from mmvitscale.engine.hooks import EarlyStoppingHook
from mmvitscale.errors import InputError
from tests.helpers import toy

pytestmark = pytest.mark.unit

BACKBONE = dict(type='mmvitscale.SwinTransformerV2', arch=dict(embed_dims=8, depths=(1, 1), num_heads=(1, 1)), window_size=4)
NAN = math.nan


@METRICS.register_module(force=True)
class Scripted(BaseMetric):
    """Gives the values of a list, one for each validation, by the iteration."""

    values: dict[int, float] = {}
    measured: list[int] = []
    name = 'acc'

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        now = Scripted.clock()
        Scripted.measured.append(now)
        return {self.name: Scripted.values[now]}


class Validated(toy.Toy):
    """The toy model, which can be validated: its metric looks at nothing."""

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return super().forward(inputs, data_samples, mode) if mode == 'loss' else [0]


def train(work_dir, values, max_iters=10, patience=2, by_epoch=False, interval=1, save_best=None, name='acc', **options):
    """Validates after every iteration (epoch: four); returns the runner, and the iterations whose validation ran."""
    Scripted.values, Scripted.measured, Scripted.name = dict(enumerate(values, 1)), [], name
    Scripted.clock = staticmethod(lambda: current.epoch if by_epoch else current.iter)
    start = toy.Runner.__init__

    def remember(self, *args, **kwargs):
        nonlocal current
        current = self
        start(self, *args, **kwargs)

    current = None
    loader = dict(
        dataset=toy.Images(),
        batch_size=8,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )
    loop = dict(by_epoch=True, max_epochs=max_iters) if by_epoch else dict(by_epoch=False, max_iters=max_iters)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy.Runner, '__init__', remember)
        runner = toy.train(
            work_dir,
            BACKBONE,
            [dict(type='mmvitscale.EarlyStoppingHook', patience=patience, **options.pop('hook', {}))],
            model=Validated(BACKBONE),
            sampler=dict(type='DefaultSampler', shuffle=False) if by_epoch else None,
            train_cfg=dict(val_interval=1, **loop),
            val_cfg={},
            val_dataloader=loader,
            val_evaluator=dict(type='Scripted'),
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', by_epoch=by_epoch, interval=interval, save_best=save_best, rule=None)
            ),
            **options,
        )
    return runner, Scripted.measured


@pytest.mark.parametrize(
    'values, patience, name, stops',
    [
        ([1, 2, 3, 2, 2, 9, 9, 9, 9, 9], 2, 'acc', 5),
        ([5] * 10, 3, 'acc', 4),  # equal is no improvement
        ([0.50, 0.51, 0.52, 0.53, 0.54, 0.55, 0.56, 0.57, 0.58, 0.59], 2, 'coco/bbox_mAP', 10),  # small ones are some
        ([NAN, 1, NAN, 2, NAN, 3, NAN, NAN, 4, 5], 2, 'acc', 8),  # NaN is none, and no reason to stop at once
        ([NAN] * 10, 3, 'acc', 3),
        ([3, 2, 1, 1, 2, 0, 0, 0, 0, 0], 2, 'val_loss', 5),
        ([0.1, 0.2, 0.1, 0.1, 1, 1, 1, 1, 1, 1], 2, 'coco_panoptic/PQ', 4),  # a name that MMEngine has no rule for
    ],
)
@pytest.mark.parametrize('by_epoch', [False, True])
def test_a_training_ends_after_so_many_validations_without_improvement(values, patience, name, stops, by_epoch, tmp_path):
    runner, measured = train(tmp_path, values, patience=patience, name=name, by_epoch=by_epoch)
    assert measured == list(range(1, stops + 1))
    assert (runner.epoch if by_epoch else runner.iter) == stops


def test_mmengines_hook_stops_trainings_that_improve_and_not_those_that_stall():
    """What ours is for: if this fails, MMEngine's has changed."""
    improving, constant = MMEngines('coco/bbox_mAP', patience=2), MMEngines('coco/bbox_mAP', patience=2, min_delta=0.0)
    assert [improving._check_stop_condition(value)[0] for value in (0.50, 0.51, 0.52)] == [False, False, True]
    assert not any(constant._check_stop_condition(0.5)[0] for _ in range(9))
    assert MMEngines('coco/bbox_mAP')._check_stop_condition(NAN)[0]
    with pytest.raises(ValueError, match='Cannot infer the rule'):
        MMEngines('coco_panoptic/PQ')


@pytest.mark.parametrize('interrupted', [1, 2, 3, 4])
@pytest.mark.parametrize('by_epoch', [False, True])
def test_the_count_goes_on_when_a_training_is_resumed(interrupted, by_epoch, tmp_path):
    values = [1, 3, 2, 2, 2, 9, 9, 9]
    whole, measured = train(tmp_path / 'whole', values, 8, patience=3, by_epoch=by_epoch)
    assert measured == [1, 2, 3, 4, 5]
    _, first = train(tmp_path / 'parts', values, interrupted, patience=3, by_epoch=by_epoch)
    # The checkpoint of an iteration is written before it is validated.
    resumed, second = train(tmp_path / 'parts', values, 8, patience=3, by_epoch=by_epoch, resume=True)
    assert first == measured[:interrupted] and second == measured[interrupted - 1 :]
    assert resumed.iter == whole.iter
    assert seen(resumed) == seen(whole)
    again, third = train(tmp_path / 'parts', values, 8, patience=3, by_epoch=by_epoch, resume=True)
    assert third == [5] and again.iter == whole.iter  # and no further


def test_a_validation_that_an_interruption_cost_is_made_up_for(tmp_path):
    values = [1, 2, 3, 4]

    def interrupted(*args):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Scripted, 'compute_metrics', interrupted)
        train(tmp_path, values, 4, save_best='acc')
    assert not (tmp_path / 'best.pth').exists()
    runner, measured = train(tmp_path, values, 1, save_best='acc', resume=True)
    assert measured == []  # nothing is left of this one
    runner, measured = train(tmp_path, values, 3, save_best='acc', resume=True)
    assert measured == [1, 2, 3] and (tmp_path / 'best.pth').is_file()


def test_a_checkpoint_between_two_validations_repeats_none(tmp_path):
    values = dict(enumerate([1, 1, 1, 1, 1, 1], 1))
    _, first = train(tmp_path, values.values(), 3, patience=4)
    (tmp_path / 'iter_3.pth').rename(tmp_path / 'three.pth')
    resumed, second = train(tmp_path, values.values(), 6, patience=4, resume=True, load_from=str(tmp_path / 'three.pth'))
    assert first == [1, 2, 3] and second == [3, 4, 5]


def seen(runner):
    return next(hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook))._seen


def logged(monkeypatch):
    lines = []
    for level in ('info', 'warning'):
        monkeypatch.setattr(logging.Logger, level, lambda self, line, *args: lines.append(str(line)))
    return lines


def test_the_log_says_when_why_and_which_checkpoint_is_the_best(tmp_path, monkeypatch):
    lines = logged(monkeypatch)
    train(tmp_path, [1, 2, 1, 1], save_best='acc')
    assert (
        'Early stopping at iteration 4: acc has not improved for 2 validations; the best is 2.0000 of iteration 2; the best '
        f'checkpoint is {tmp_path}/best_acc_iter_2.pth.' in lines
    )


def test_a_patience_that_ends_nothing_is_said(tmp_path, monkeypatch):
    lines = logged(monkeypatch)
    train(tmp_path, [1, 2], 2, patience=3)
    assert [line for line in lines if 'it will not be stopped' in line and 'has 2' in line]


def test_what_the_best_checkpoint_is_chosen_by_is_watched(tmp_path):
    runner, _ = train(tmp_path, [1, 2], 2, save_best='acc')
    assert next(hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)).monitor == 'acc'
    with pytest.raises(InputError, match="monitor='mIuO' found.*gives acc"):
        train(tmp_path / 'b', [1, 2], 2, hook=dict(monitor='mIuO'))
    with pytest.raises(InputError, match='patience=0'):
        train(tmp_path / 'c', [1, 2], 2, patience=0)


def test_the_best_checkpoint_of_auto_is_that_of_the_main_metric(tmp_path):
    train(tmp_path, [0.1, 0.3, 0.2], 3, patience=9, save_best='auto', name='coco_panoptic/PQ')
    assert (tmp_path / 'best_coco_panoptic_PQ_iter_2.pth').samefile(tmp_path / 'best.pth')
