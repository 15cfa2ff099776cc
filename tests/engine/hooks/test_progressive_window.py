import pytest

from mmvitscale.engine.hooks import ProgressiveWindowHook
from mmvitscale.errors import InputError
from tests.helpers import toy

pytestmark = pytest.mark.unit

BACKBONE = dict(type='mmvitscale.SwinTransformerV2', arch=dict(embed_dims=8, depths=(1, 1), num_heads=(1, 1)), window_size=4)
SCHEDULE = [dict(begin=0, window_size=4, crop_size=(32, 32)), dict(begin=2, window_size=[8, 6], crop_size=(48, 64))]
HOOK = dict(type='mmvitscale.ProgressiveWindowHook', schedule=SCHEDULE)


@pytest.mark.parametrize('num_workers', [0, pytest.param(1, marks=pytest.mark.integration)])
def test_windows_and_crops_follow_the_schedule_also_after_resume(num_workers, tmp_path):
    runner = toy.train(tmp_path, BACKBONE, [HOOK], max_iters=4, num_workers=num_workers)
    # the batch of iteration 2 was cropped before the change
    assert runner.model.seen == [((32, 32), [4, 4])] * 2 + [((32, 32), [8, 6])] + [((48, 64), [8, 6])]
    assert [stage.pretrained_window for stage in runner.model.backbone.stages] == [(4, 4)] * 2

    resumed = toy.train(tmp_path, BACKBONE, [HOOK], max_iters=6, num_workers=num_workers, resume=True)
    assert resumed.model.seen == [((48, 64), [8, 6])] * 2
    assert [stage.pretrained_window for stage in resumed.model.backbone.stages] == [(4, 4)] * 2


@pytest.mark.parametrize(
    'schedule, message',
    [
        ([], r'begin at \[\]'),
        ([dict(begin=5)], r'begin at \[5\]'),
        ([dict(begin=0), dict(begin=0)], r'begin at \[0, 0\]'),
        ([dict(begin=0, window=8)], r"\['window'\]"),
    ],
)
def test_invalid_schedules_are_refused(schedule, message):
    with pytest.raises(InputError, match=message):
        ProgressiveWindowHook(schedule)


def test_schedules_that_do_not_fit_the_training_are_refused(tmp_path):
    def train(backbone=BACKBONE, **phase):
        toy.train(tmp_path, backbone, [dict(type='mmvitscale.ProgressiveWindowHook', schedule=[dict(begin=0, **phase)])])

    with pytest.raises(InputError, match='has no RandomResize or Resize'):
        train(scale=(64, 64))
    with pytest.raises(InputError, match='window_size has 3 values'):
        train(window_size=[1, 2, 3])
