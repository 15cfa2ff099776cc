import pytest
import torch
from mmengine.dataset import Compose

from mmvitscale.checkpoints.metadata import META_KEY
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
    assert runner.model.seen == [((32, 32), [4, 4])] * 2 + [((48, 64), [8, 6])] * 2
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


@pytest.mark.parametrize('cut, num_workers', [(1, 0), (2, 0), (3, 0), pytest.param(2, 2, marks=pytest.mark.integration)])
def test_a_training_resumed_around_a_change_of_crops_equals_one_that_was_not(cut, num_workers, tmp_path):
    options = dict(num_workers=num_workers, images=toy.Images())
    whole = toy.train(tmp_path / 'whole', BACKBONE, [HOOK], max_iters=4, model=seeded(), **options)
    first = toy.train(tmp_path / 'cut', BACKBONE, [HOOK], max_iters=cut, model=seeded(), **options)
    options['images'] = toy.Images()
    second = toy.train(tmp_path / 'cut', BACKBONE, [HOOK], max_iters=4, model=seeded(), resume=True, **options)
    assert first.model.seen + second.model.seen == whole.model.seen
    for one, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)
    saved = torch.load(tmp_path / 'whole' / 'iter_2.pth', weights_only=False)
    assert saved['meta'][META_KEY]['windows'] == [[4, 4], [4, 4]]  # those that it was last trained with


def seeded():
    torch.manual_seed(4)
    return toy.Toy({**BACKBONE, 'drop_path_rate': 0.0})


@pytest.mark.parametrize('num_workers', [0, pytest.param(2, marks=pytest.mark.integration)])
def test_in_a_loop_of_epochs_crops_change_with_an_epoch(num_workers, tmp_path):
    """Whatever the number of loading processes, and after a resume within the epoch: 4 batches each."""
    options = dict(
        num_workers=num_workers,
        sampler=dict(type='DefaultSampler', shuffle=False),
        train_cfg=dict(by_epoch=True, max_epochs=3),
    )
    runner = toy.train(tmp_path, BACKBONE, [HOOK], **options)
    small, large = ((32, 32), [8, 6]), ((48, 64), [8, 6])
    assert runner.model.seen == [((32, 32), [4, 4])] * 2 + [small] * 2 + [large] * 8
    resumed_at = ((2, [small] * 2 + [large] * 8), (3, [small] + [large] * 8), (6, [large] * 6))
    for cut, left in reversed(resumed_at[1:2] if num_workers else resumed_at):
        for path in tmp_path.glob('iter_*.pth'):
            if int(path.stem[5:]) > cut:
                path.unlink()
        (tmp_path / 'last_checkpoint').write_text(str(tmp_path / f'iter_{cut}.pth'))
        resumed = toy.train(tmp_path, BACKBONE, [HOOK], resume=True, **options)
        assert resumed.model.seen == left, cut


def test_every_crop_of_a_pipeline_changes_however_deep_it_is(tmp_path):
    class RandomChoice:
        def __init__(self, *transforms):
            self.transforms = [Compose([transform]) for transform in transforms]

        def __call__(self, sample):
            return self.transforms[1](sample)

    class Mixed(toy.Images):
        """As ``MultiImageMixDataset``: a data set with a pipeline inside one with another."""

        def __init__(self):
            self.pipeline = [toy.RandomCrop((60, 60)), RandomChoice(toy.RandomCrop((9, 9)), toy.RandomCrop((16, 16)))]
            self.dataset = toy.Images()

        def __getitem__(self, index):
            return self.pipeline[1](self.pipeline[0](self.dataset[index]))

    runner = toy.train(tmp_path, BACKBONE, [HOOK], max_iters=3, images=Mixed())
    assert [size for size, _ in runner.model.seen] == [(32, 32)] * 2 + [(48, 64)]
    images = runner.train_dataloader.dataset  # a copy
    assert images.dataset.pipeline.transforms[0].crop_size == images.pipeline[0].crop_size == (48, 64)
    assert images.pipeline[1].transforms[0].transforms[0].crop_size == (48, 64)
