"""Own data to a trained model in one call."""

import pytest

import mmvitscale
from mmvitscale.datasets import mini
from mmvitscale.datasets.formats.registry import convert_dataset
from mmvitscale.errors import InputError
from tests.helpers.commands import FOREGROUND

pytestmark = pytest.mark.integration

SHORT = {'train_cfg.max_iters': 2, 'train_cfg.val_interval': 1, 'default_hooks.checkpoint.interval': 1}
SHORT |= {option.split('=')[0]: 0 if 'num_workers' in option else False for option in FOREGROUND}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """The scenes as YOLO and as masks."""
    place = tmp_path_factory.mktemp('data')
    scenes = mini.write_dataset(place / 'mini', train=8, val=2, size=64)
    convert_dataset(scenes / 'coco', place / 'yolo', 'yolo')
    convert_dataset(scenes / 'ADEChallengeData2016', place / 'masks', 'masks')
    return place


def test_data_become_a_predictor_twice_in_one_process(data, tmp_path, capfd):
    """Another task, hence another scope of OpenMMLab, after the first."""
    for name, task in (('yolo', 'instance'), ('masks', 'segmentation')):
        predictor = mmvitscale.train(data / name, out=tmp_path / name, cfg_options=SHORT, ema=name == 'masks')
        assert f'format: {name}' in capfd.readouterr().out
        image = next((data / name).rglob('*.jpg'))
        sample = predictor(image)
        assert ('pred_instances' if task == 'instance' else 'pred_sem_seg') in sample
        assert predictor.draw(image).size[0] >= 64
        assert (tmp_path / name / 'best.pth').is_file() and list((tmp_path / name).glob('*/vis_data/scalars.json'))
        again = mmvitscale.Predictor(tmp_path / name / 'best.pth')
        assert again.dataset_meta['classes'] == predictor.dataset_meta['classes']


def test_a_folder_is_replaced_or_resumed_only_when_it_is_said(data, tmp_path):
    mmvitscale.train(data / 'masks', out=tmp_path / 'run', cfg_options=SHORT)
    with pytest.raises(InputError, match='choose another out, or resume=True, or overwrite=True'):
        mmvitscale.train(data / 'masks', out=tmp_path / 'run', cfg_options=SHORT)
    mmvitscale.train(data / 'masks', out=tmp_path / 'run', cfg_options={**SHORT, 'train_cfg.max_iters': 3}, resume=True)
    assert (tmp_path / 'run/iter_3.pth').is_file()
    mmvitscale.train(data / 'masks', out=tmp_path / 'run', cfg_options={**SHORT, 'train_cfg.max_iters': 1}, overwrite=True)
    assert not (tmp_path / 'run/iter_3.pth').exists() and (tmp_path / 'run/iter_1.pth').is_file()
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/file').write_text('mine')
    with pytest.raises(InputError, match='holds something, but no training'):
        mmvitscale.train(data / 'masks', out=tmp_path / 'mine', overwrite=True)
    assert [path.name for path in (tmp_path / 'mine').iterdir()] == ['file']
