import pytest

from mmvitscale.engine import experiments
from mmvitscale.errors import InputError
from tests.helpers.loaded import load

pytestmark = pytest.mark.unit


def sizes(cfg):
    return [step.get(key) for step in cfg.test_dataloader.dataset.pipeline for key in ('scale', 'crop_size') if key in step]


@pytest.mark.integration
@pytest.mark.parametrize(
    'name, side, twice',
    [
        ('swinv2_upernet_ade20k', 512, [(4096, 1024)]),
        ('swinv2_retinanet_coco', 800, [(2666, 1600)]),
        ('swinv2-t-w8_8xb128-300e_in1k-256', 256, [584, 512]),
        ('swinv2-b-w12to24-in22k_8xb128-30e_in1k-384', 384, [(768, 768)]),
    ],
)
def test_changing_the_test_size_scales_every_test_transform(name, side, twice):
    cfg = load(name)
    assert experiments.test_side(cfg) == side
    experiments.use_test_side(cfg, 2 * side)
    assert [tuple(size) if isinstance(size, (list, tuple)) else size for size in sizes(cfg)] == twice
    assert experiments.test_side(cfg) == 2 * side


def test_a_test_pipeline_without_a_resize_gets_one(monkeypatch):
    cfg = load('swinv2_upernet_mini')
    monkeypatch.setattr(experiments, 'test_side', lambda cfg: 256)
    experiments.use_test_side(cfg, 512)
    kinds = [step.type for step in cfg.test_dataloader.dataset.pipeline]
    assert kinds[:3] == ['LoadImageFromFile', 'Resize', 'LoadAnnotations'] and sizes(cfg) == [(512, 512)]


def test_sliding_windows_grow_with_the_image(monkeypatch):
    cfg = load('deepvit_upernet_mini')
    monkeypatch.setattr(experiments, 'test_side', lambda cfg: 256)
    experiments.use_test_side(cfg, 384)
    assert cfg.model.test_cfg.crop_size == (192, 192) and cfg.model.test_cfg.stride == (96, 96)


def test_grown_windows_main_metric_and_mean_are_as_expected():
    assert experiments.grown([6, 6, 6, 3], 1.5) == [9, 9, 9, 4] and experiments.grown(8, 3) == 24
    assert experiments.main_metric({'aAcc': 1.0, 'mIoU': 2.0}) == ('mIoU', 2.0)
    assert experiments.main_metric({'aAcc': 1.0, 'mIoU': 2.0}, 'aAcc') == ('aAcc', 1.0)
    with pytest.raises(InputError, match='metric b found, but the test gives a'):
        experiments.main_metric({'a': 1.0}, 'b')
    assert experiments.describe([1, 2, 3]) == '2.00 +- 1.00' and experiments.describe([4.0]) == '4.00 +- 0.00'


def test_an_interrupted_training_resumes_and_a_finished_one_is_skipped(tmp_path, monkeypatch):
    resumed = []

    def run(function, config, work_dir, options, resume):
        resumed.append(resume)
        (tmp_path / 'output.txt').write_text('killed')
        (tmp_path / 'last_checkpoint').write_text(str(tmp_path / f'iter_{len(resumed)}.pth'))
        return 1 if len(resumed) == 1 else 0

    monkeypatch.setattr(experiments, '_in_process', run)
    with pytest.raises(InputError, match='ended with status 1: killed'):
        experiments.train_once('a_config', tmp_path, {'a.b': 1})
    assert experiments.train_once('a_config', tmp_path, {'a.b': 1}) == tmp_path / 'iter_2.pth'
    assert experiments.train_once('a_config', tmp_path, {'a.b': 1}) == tmp_path / 'iter_2.pth'
    assert resumed == [None, 'auto']


@pytest.mark.integration
def test_a_training_that_fails_reports_the_sentence_it_ended_with(tmp_path):
    with pytest.raises(InputError, match='ended with status 1: error: config nothing_mini is not there'):
        experiments.train_once('nothing_mini', tmp_path, {})
