import copy
from math import isnan

import pytest
from mmengine.config import Config

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


def test_every_data_set_that_is_tested_together_gets_the_size():
    cfg = load('swinv2_upernet_ade20k')
    dataset = cfg.test_dataloader.dataset
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[dataset, copy.deepcopy(dataset), dataset])
    assert experiments.test_side(cfg) == 512
    experiments.use_test_side(cfg, 1024)
    found = [step.scale for one in cfg.test_dataloader.dataset.datasets for step in one.pipeline if 'scale' in step]
    assert found == [(4096, 1024)] * 3


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
    (tmp_path / 'a_config.py').write_text('a = dict(b=0)')
    config = str(tmp_path / 'a_config.py')
    with pytest.raises(InputError, match='ended with status 1: killed'):
        experiments.train_once(config, tmp_path, {'a.b': 1})
    assert experiments.train_once(config, tmp_path, {'a.b': 1}) == tmp_path / 'iter_2.pth'
    assert experiments.train_once(config, tmp_path, {'a.b': 1}) == tmp_path / 'iter_2.pth'
    assert resumed == [None, 'auto']


@pytest.mark.integration
def test_a_training_that_fails_reports_the_sentence_it_ended_with(tmp_path):
    with pytest.raises(InputError, match='ended with status 1: error: data set folder /nobody/images/training is not there'):
        experiments.train_once('swinv2_upernet_mini', tmp_path, {'data_root': '/nobody'})


def test_a_changed_training_in_the_same_folder_is_refused(tmp_path, monkeypatch):
    def run(function, config, work_dir, options, resume):
        (work_dir / 'last_checkpoint').write_text(str(work_dir / 'iter.pth'))
        return 0

    monkeypatch.setattr(experiments, '_in_process', run)
    config, weights, data, out = tmp_path / 'c.py', tmp_path / 'w.pth', tmp_path / 'data', tmp_path / 'out'
    config.write_text('a = dict(b=0)\npipeline = [dict(type="Resize", scale=2)]\nload_from = data_root = None')
    weights.write_text('1')
    data.mkdir()

    def train(**options):
        return experiments.train_once(str(config), out, {'a.b': 1, 'load_from': weights, 'data_root': str(data), **options})

    assert train() == train() == out / 'iter.pth'
    with pytest.raises(InputError, match=r'out holds a training with other settings: a.b was 1 and is 2; give another --out'):
        train(**{'a.b': 2})
    weights.write_text('2')
    with pytest.raises(InputError, match='load_from has changed'):
        train()
    weights.write_text('1')
    (data / 'image.png').write_text('')
    with pytest.raises(InputError, match='content of the data set has changed'):
        train()
    (data / 'image.png').unlink()
    config.write_text(config.read_text().replace('scale=2', 'scale=3'))
    with pytest.raises(InputError, match='pipeline.0.scale was 2 and is 3'):
        train()
    (out / 'settings.json').unlink()
    with pytest.raises(InputError, match='whose settings are not recorded'):
        train()


def test_a_test_is_repeated_where_what_it_depends_on_has_changed(tmp_path, monkeypatch):
    values = iter((1.0, 2.0, float('nan')))
    monkeypatch.setattr(experiments, 'evaluate', lambda cfg, checkpoint, work_dir: dict(mIoU=next(values)))
    weights, known = tmp_path / 'w.pth', tmp_path / 'test.json'
    weights.write_text('1')

    def test(**options):
        return experiments.evaluate_once(Config(dict(side=1, **options)), weights, tmp_path, known)['mIoU']

    assert test() == test() == 1.0
    assert test(b=2) == 2.0
    weights.write_text('2')
    assert isnan(test(b=2)) and isnan(test(b=2)) and 'NaN' not in known.read_text()


def test_only_metrics_that_are_numbers_are_compared():
    with pytest.raises(InputError, match='no metric that is a number'):
        experiments.main_metric({})
