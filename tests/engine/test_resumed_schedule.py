"""Whose learning rates a training has that goes on under a config that was changed."""

import copy
import logging

import pytest
import torch
from mmengine.hooks import Hook

from mmvitscale.errors import InputError
from tests.helpers import toy

pytestmark = pytest.mark.unit

BACKBONE = dict(
    type='mmvitscale.SwinTransformerV2', arch=dict(embed_dims=8, depths=(1,), num_heads=(1,)), window_size=4, drop_path_rate=0.0
)


class Rates(Hook):
    def __init__(self):
        self.found = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.found.append(runner.optim_wrapper.get_lr()['lr'][0])


def schedule(end, start_factor=0.5):
    return [
        dict(type='LinearLR', start_factor=start_factor, begin=0, end=2, by_epoch=False),
        dict(type='PolyLR', eta_min=0.0, begin=0, end=end, by_epoch=False),
    ]


def train(work_dir, max_iters, schedulers, lr=0.1, **options):
    rates = Rates()
    torch.manual_seed(5)
    runner = toy.train(
        work_dir, BACKBONE, [rates], max_iters=max_iters, lr=lr, param_scheduler=schedulers, randomness=dict(seed=1), **options
    )
    return runner, rates.found


def forget_schedule(path):
    """As a checkpoint of MMEngine, or of a version before."""
    content = torch.load(path, weights_only=False)
    del content['schedule']
    torch.save(content, path)


COSINE = [dict(type='CosineAnnealingLR', T_max=8, by_epoch=False)]


@pytest.fixture
def warnings(monkeypatch):
    found = []
    monkeypatch.setattr(logging.Logger, 'warning', lambda self, line, *args, **kwargs: found.append(str(line)))
    return found


def test_a_schedule_that_is_equal_goes_on_exactly_and_silently(tmp_path, warnings):
    whole, rates = train(tmp_path / 'whole', 8, schedule(8))
    train(tmp_path / 'cut', 3, schedule(8))
    warnings.clear()
    second, later = train(tmp_path / 'cut', 8, schedule(8), resume=True)
    assert rates[3:] == later and not [line for line in warnings if 'schedule' in line]
    for one, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    'before, after, said',
    [
        (dict(schedulers=schedule(4)), dict(schedulers=schedule(8)), 'end 4 -> 8'),
        (dict(schedulers=schedule(8)), dict(schedulers=schedule(8), lr=0.7), 'lr 0.1 -> 0.7'),
        (dict(schedulers=schedule(8)), dict(schedulers=schedule(8, 0.1)), 'start_factor 0.5 -> 0.1'),
        (dict(schedulers=schedule(8)[1:]), dict(schedulers=schedule(8)), 'PolyLR -> LinearLR+PolyLR'),
        (dict(schedulers=None), dict(schedulers=schedule(8)), 'no scheduler -> LinearLR+PolyLR'),
        (
            dict(schedulers=schedule(8)),
            dict(schedulers=COSINE),
            'LinearLR+PolyLR -> CosineAnnealingLR',
        ),
        (dict(schedulers=schedule(8)[1:]), dict(schedulers=COSINE), 'PolyLR -> CosineAnnealingLR'),
        (dict(schedulers=schedule(8)), dict(schedulers=None, lr=0.03), 'LinearLR+PolyLR -> no scheduler'),
    ],
)
@pytest.mark.parametrize('cut', [1, 3, 4])
def test_a_config_that_was_changed_wins_from_where_the_training_is(before, after, said, cut, tmp_path, warnings):
    _, rates = train(tmp_path / 'whole', 8, **after)
    train(tmp_path / 'cut', cut, **before)
    warnings.clear()
    runner, later = train(tmp_path / 'cut', 8, **after, resume=True)
    assert later == pytest.approx(rates[cut:], rel=1e-9, abs=1e-12) and runner.iter == 8
    (line,) = [line for line in warnings if 'differs' in line]
    assert said in line and 'that of the config holds' in line and '--resume-schedule config or checkpoint' in line


def test_the_schedule_of_the_checkpoint_can_be_chosen(tmp_path, warnings):
    _, rates = train(tmp_path / 'whole', 8, schedule(8))
    train(tmp_path / 'cut', 3, schedule(8))
    options = dict(schedulers=schedule(20), lr=0.7, resume=True)
    _, later = train(tmp_path / 'cut', 8, **options, cfg=dict(resume_schedule='checkpoint'))
    assert later == rates[3:]
    (line,) = [line for line in warnings if 'differs' in line]
    assert 'that of the checkpoint holds, learning rates' in line and 'end 8 -> 20' in line and 'lr 0.1 -> 0.7' in line
    with pytest.raises(InputError, match="resume_schedule='both' found, but it is config or checkpoint"):
        train(tmp_path / 'cut', 9, **options, cfg=dict(resume_schedule='both'))


def test_momentum_of_the_optimizer_goes_on_under_a_schedule_that_was_changed(tmp_path):
    train(tmp_path, 3, schedule(8), optimizer='AdamW')
    saved = torch.load(tmp_path / 'iter_3.pth', weights_only=False)['optimizer']['state']
    found = []

    class Looks(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 3:
                found.append(copy.deepcopy(runner.optim_wrapper.optimizer.state_dict()['state']))

    toy.train(tmp_path, BACKBONE, [Looks()], max_iters=4, lr=0.5, optimizer='AdamW', param_scheduler=schedule(20), resume=True)
    assert found[0].keys() == saved.keys() and saved
    for index, state in saved.items():
        assert all(torch.equal(found[0][index][key], value) for key, value in state.items())


def test_schedules_of_epochs_are_as_far_on_as_the_training(tmp_path):
    def epochs(milestones, cut, **options):
        warmup = dict(type='LinearLR', start_factor=0.5, begin=0, end=3, by_epoch=False)
        steps = dict(type='MultiStepLR', milestones=milestones, gamma=0.1, by_epoch=True)
        options.update(train_cfg=dict(by_epoch=True, max_epochs=cut), sampler=dict(type='DefaultSampler', shuffle=False))
        return train(tmp_path / options.pop('name'), 1, [warmup, steps], **options)

    _, rates = epochs([1, 3], 4, name='whole')  # of 4 batches each
    epochs([2], 2, name='cut')
    _, later = epochs([1, 3], 4, name='cut', resume=True)
    assert later == pytest.approx(rates[8:])


def test_a_schedule_that_follows_measurements_stays_the_checkpoints(tmp_path, warnings):
    plateau = [dict(type='ReduceOnPlateauLR', monitor='acc', by_epoch=True, patience=3)]
    train(tmp_path, 2, plateau)
    _, later = train(tmp_path, 4, [dict(plateau[0], patience=9)], lr=0.7, resume=True)
    assert later == [0.1, 0.1]
    (line,) = [line for line in warnings if 'differs' in line]
    assert 'that of the checkpoint holds (ReduceOnPlateau follows measurements' in line


def test_training_on_behind_the_end_of_a_schedule_is_warned_of(tmp_path, warnings):
    """open-mmlab/mmengine#1565: max_iters was raised and nothing else."""
    train(tmp_path, 4, schedule(4))
    warnings.clear()
    _, later = train(tmp_path, 6, schedule(4), resume=True)
    assert later == [0.0, 0.0]
    (line,) = [line for line in warnings if 'schedule' in line]
    assert 'the schedule ended at iteration 4, and the 2 iterations that follow train with 0 of the learning rate' in line


UNCHANGED = {
    'OneCycle': [dict(type='OneCycleLR', eta_max=0.5, total_steps=8, end=8, by_epoch=False)],
    'restarts': [dict(type='CosineRestartLR', periods=[3, 5], restart_weights=[1, 0.5], eta_min=0.0, end=8, by_epoch=False)],
    'steps': [dict(type='MultiStepLR', milestones=[2, 4], end=8, by_epoch=False)],
    'momentum': [dict(type='LinearMomentum', start_factor=0.5, end=6, by_epoch=False)],
    'both': [*schedule(8), dict(type='CosineAnnealingMomentum', T_max=8, eta_min=0.1, end=8, by_epoch=False)],
}


@pytest.mark.parametrize('name', UNCHANGED)
@pytest.mark.parametrize('known', [True, False], ids=['', 'of-MMEngine'])
def test_no_schedule_that_is_unchanged_is_taken_for_another(name, known, tmp_path, warnings):
    """Also where the checkpoint does not say what its schedule was."""
    whole, rates = train(tmp_path / 'whole', 6, UNCHANGED[name], optimizer='AdamW', lr=0.01)
    train(tmp_path / 'cut', 3, UNCHANGED[name], optimizer='AdamW', lr=0.01)
    if not known:
        forget_schedule(tmp_path / 'cut' / 'iter_3.pth')
    warnings.clear()
    second, later = train(tmp_path / 'cut', 6, UNCHANGED[name], optimizer='AdamW', lr=0.01, resume=True)
    assert later == rates[3:] and not [line for line in warnings if 'schedule' in line]
    for one, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_change_is_seen_in_a_checkpoint_that_does_not_say_its_schedule(tmp_path, warnings):
    _, rates = train(tmp_path / 'whole', 8, schedule(8), lr=0.7)
    train(tmp_path / 'cut', 3, schedule(4))
    forget_schedule(tmp_path / 'cut' / 'iter_3.pth')
    warnings.clear()
    _, later = train(tmp_path / 'cut', 8, schedule(8), lr=0.7, resume=True)
    assert later == pytest.approx(rates[3:])
    (line,) = [line for line in warnings if 'differs' in line]
    assert 'end 4 -> 8' in line and 'lr 0.1 -> 0.7' in line


def test_the_schedule_of_a_checkpoint_that_has_other_schedulers_is_refused(tmp_path):
    train(tmp_path, 3, schedule(8))
    with pytest.raises(
        InputError, match=r'is of LinearLR\+PolyLR, that of the config of CosineAnnealingLR, which cannot go on'
    ):
        train(tmp_path, 8, COSINE, resume=True, cfg=dict(resume_schedule='checkpoint'))


def test_a_checkpoint_without_a_schedule_takes_the_configs(tmp_path, warnings):
    checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=1, save_param_scheduler=False)
    _, rates = train(tmp_path / 'whole', 8, schedule(8))
    train(tmp_path / 'cut', 3, schedule(8), default_hooks=dict(checkpoint=checkpoint))
    warnings.clear()
    _, later = train(tmp_path / 'cut', 8, schedule(8), resume=True, cfg=dict(resume_schedule='checkpoint'))
    assert later == pytest.approx(rates[3:])
    (line,) = [line for line in warnings if 'schedule' in line and 'checkpoint' in line and 'holds' in line]
    assert 'is not in the checkpoint: that of the config holds' in line


def test_what_a_hook_has_made_of_the_learning_rate_goes_on(tmp_path, warnings):
    class Lowers(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 0:
                runner.optim_wrapper.optimizer.param_groups[0]['lr'] = 0.01

    toy.train(tmp_path, BACKBONE, [Lowers()], max_iters=2, lr=0.1)
    warnings.clear()
    _, later = train(tmp_path, 4, None, resume=True)
    assert later == [0.01, 0.01] and not [line for line in warnings if 'differs' in line]


def test_epochs_of_another_batch_are_counted_as_they_are_now(tmp_path):
    """A schedule of epochs that is converted to iterations: 4 batches in an epoch before, 2 after."""
    cosine = dict(type='CosineAnnealingLR', T_max=6, by_epoch=True, convert_to_iter_based=True)
    options = dict(sampler=dict(type='DefaultSampler', shuffle=False))

    class Fewer(toy.Images):
        def __len__(self):
            return 4

    def epochs(name, number, images, **more):
        options.update(train_cfg=dict(by_epoch=True, max_epochs=number))
        return train(tmp_path / name, 1, [dict(cosine)], images=images, **options, **more)

    _, rates = epochs('whole', 6, Fewer())
    epochs('cut', 3, toy.Images())
    _, later = epochs('cut', 6, Fewer(), resume=True)
    assert later == pytest.approx(rates[4:])  # from the epoch on in which it was cut, which starts again


@pytest.mark.parametrize('option', ['amsgrad', 'maximize'])
def test_options_that_are_on_or_off_are_seen(option, tmp_path, warnings):
    def go(iterations, **more):
        optimizer = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=0.1, **more.pop('options', {})))
        return toy.train(tmp_path, BACKBONE, max_iters=iterations, optim_wrapper=optimizer, **more)

    go(2)
    warnings.clear()
    runner = go(4, options={option: True}, resume=True)
    (line,) = [line for line in warnings if 'differs' in line]
    assert f'{option} False -> True' in line
    assert runner.optim_wrapper.optimizer.param_groups[0][option] == (option == 'maximize')
    assert ('stays as it was' in line) == (option == 'amsgrad')


def test_a_warmup_that_is_over_is_no_end_of_the_schedule(tmp_path, warnings):
    steps = [
        dict(type='LinearLR', start_factor=0.5, end=2, by_epoch=False),
        dict(type='MultiStepLR', milestones=[1, 2, 3, 4], end=9),
    ]
    options = dict(sampler=dict(type='DefaultSampler', shuffle=False))
    train(tmp_path, 1, steps, train_cfg=dict(by_epoch=True, max_epochs=4), **options)
    warnings.clear()
    train(tmp_path, 1, steps, train_cfg=dict(by_epoch=True, max_epochs=6), resume=True, **options)
    assert not [line for line in warnings if 'the schedule' in line]


def test_the_schedule_that_was_chosen_is_the_one_that_is_compared_with_later(tmp_path, warnings):
    _, rates = train(tmp_path / 'whole', 8, schedule(20), lr=0.7)
    train(tmp_path / 'cut', 3, schedule(8))
    changed = dict(schedulers=schedule(20), lr=0.7, resume=True)
    train(tmp_path / 'cut', 5, **changed, cfg=dict(resume_schedule='checkpoint'))
    warnings.clear()
    _, later = train(tmp_path / 'cut', 8, **changed)
    assert later == pytest.approx(rates[5:]) and [line for line in warnings if 'that of the config holds' in line]
    warnings.clear()
    _, later = train(tmp_path / 'cut', 9, **changed)
    assert not [line for line in warnings if 'differs' in line]


def test_measurements_that_are_not_there_do_not_win(tmp_path):
    train(tmp_path, 2, schedule(8))
    plateau = [dict(type='ReduceOnPlateauLR', monitor='acc', by_epoch=True)]
    assert train(tmp_path, 4, plateau, lr=0.7, resume=True)[1] == [0.7, 0.7]


def test_another_scheduler_is_seen_in_a_checkpoint_that_does_not_say_its_schedule(tmp_path, warnings):
    train(tmp_path, 3, schedule(8)[1:])
    forget_schedule(tmp_path / 'iter_3.pth')
    with pytest.raises(InputError, match='is of another scheduler, that of the config of CosineAnnealingLR'):
        train(tmp_path, 8, COSINE, resume=True, cfg=dict(resume_schedule='checkpoint'))
    _, rates = train(tmp_path / 'whole', 8, COSINE)
    assert train(tmp_path, 8, COSINE, resume=True)[1] == pytest.approx(rates[3:])
