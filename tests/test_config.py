"""Configs read from files, and overridden."""

import pytest

from mmvitscale.config import load_config, load_test_config
from mmvitscale.errors import InputError

CONFIG = '''
data_root = 'data/coco/'
train_dataloader = dict(
    dataset=dict(type='RepeatDataset', times=2, dataset=dict(
        data_root=data_root, ann_file='annotations/a.json', data_prefix=dict(img='train2017/'))))
val_evaluator = dict(ann_file=data_root + 'annotations/b.json', other='data/cocoa/b.json')
'''


@pytest.fixture
def config(tmp_path):
    (tmp_path / 'config.py').write_text(CONFIG)
    return str(tmp_path / 'config.py')


def test_data_root_moves_every_path_below_it(config):
    cfg = load_config(config, dict(data_root='/big/disk'))
    assert cfg.data_root == cfg.train_dataloader.dataset.dataset.data_root.rstrip('/') == '/big/disk'
    assert cfg.val_evaluator.ann_file == '/big/disk/annotations/b.json'
    assert cfg.val_evaluator.other == 'data/cocoa/b.json'


GROWING = """
model = dict(backbone=dict(window_size=8))
custom_hooks = [dict(type='mmvitscale.ProgressiveWindowHook', schedule=[dict(begin=0), dict(begin=2, window_size=16)])]
"""


def test_whose_windows_are_tested(config, tmp_path):
    assert load_test_config(config).test_windows == 'config'
    (tmp_path / 'growing.py').write_text(GROWING)
    growing = str(tmp_path / 'growing.py')
    assert load_test_config(growing).test_windows == 'checkpoint'
    assert load_test_config(growing, {'model.backbone.window_size': 8}).test_windows == 'config'
    assert load_test_config(growing, {'custom_hooks.0.schedule.1.window_size': 12}).test_windows == 'checkpoint'
    assert load_test_config(growing, dict(test_windows='config')).test_windows == 'config'
    for wrong in ('chekpoint', 'window'):
        with pytest.raises(InputError, match=f"test_windows is '{wrong}'"):
            load_test_config(growing, dict(test_windows=wrong))
    (tmp_path / 'growing.py').write_text(GROWING.replace('window_size=16', 'crop_size=(64, 64)'))
    assert load_test_config(growing).test_windows == 'config'
