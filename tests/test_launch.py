import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmvitscale import launch
from mmvitscale.errors import InputError

CONFIG = '''
data_root = 'data/coco/'
train_dataloader = dict(
    num_workers=999,
    dataset=dict(type='RepeatDataset', times=2, dataset=dict(
        data_root=data_root, ann_file='annotations/a.json', data_prefix=dict(img='train2017/'))))
val_evaluator = dict(ann_file=data_root + 'annotations/b.json', other='data/cocoa/b.json')
sync_bn = 'torch'
'''


@pytest.fixture
def config(tmp_path):
    (tmp_path / 'config.py').write_text(CONFIG)
    return str(tmp_path / 'config.py')


def test_data_root_moves_every_path_below_it(config):
    cfg = launch.load_config(config, dict(data_root='/big/disk'))
    assert cfg.data_root == cfg.train_dataloader.dataset.dataset.data_root.rstrip('/') == '/big/disk'
    assert cfg.val_evaluator.ann_file == '/big/disk/annotations/b.json'
    assert cfg.val_evaluator.other == 'data/cocoa/b.json'


def test_data_sets_inside_wrappers_are_checked(config, tmp_path):
    cfg = launch.load_config(config, dict(data_root=str(tmp_path)))
    with pytest.raises(InputError, match='train2017 is not there'):
        launch.check_datasets(cfg, ['train', 'val'])
    (tmp_path / 'train2017').mkdir()
    (tmp_path / 'train2017/a.jpg').write_text('')
    with pytest.raises(InputError, match='annotation file .*a.json is not there'):
        launch.check_datasets(cfg, ['train', 'val'])
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'annotations/a.json').write_text('')
    launch.check_datasets(cfg, ['train', 'val'])


def test_a_config_for_many_gpus_fits_a_cpu(config):
    cfg = launch.load_config(config)
    launch.adapt_to_machine(cfg)
    assert 'sync_bn' not in cfg or torch.cuda.is_available()
    assert cfg.train_dataloader.num_workers < 999


def test_check_fit_names_what_differs():
    model = nn.Linear(2, 3)
    launch.check_fit(model, dict(state_dict={'module.weight': torch.ones(3, 2), 'module.bias': torch.ones(3)}), 'f')
    with pytest.raises(InputError, match=r'f does not fit.*1 weights missing \(bias\); 1 weights unknown \(extra\); '
                       r'1 weights of another shape \(weight is \(2, 2\) instead of \(3, 2\)\)'):
        launch.check_fit(model, dict(weight=torch.ones(2, 2), extra=torch.ones(1)), 'f')


def test_mixed_precision_follows_the_device(config):
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper')))
    launch.use_mixed_precision(cfg)
    expected = 'AmpOptimWrapper' if torch.cuda.is_available() else 'mmvitscale.CPUAmpOptimWrapper'
    assert cfg.optim_wrapper.type == expected
