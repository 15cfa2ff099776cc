"""Configs read from files, and overridden."""

import json
import re

import mmengine.logging
import pytest
from mmengine.config import Config

import mmvitscale
from mmvitscale.config.loading import load_config, load_test_config
from mmvitscale.config.names import configs_folder, find_config
from mmvitscale.errors import InputError

pytestmark = pytest.mark.unit

CONFIG = """
data_root = 'data/coco/'
train_dataloader = dict(
    dataset=dict(type='RepeatDataset', times=2, dataset=dict(
        data_root=data_root, ann_file='annotations/a.json', data_prefix=dict(img='train2017/'))))
val_evaluator = dict(ann_file=data_root + 'annotations/b.json', other='data/cocoa/b.json')
"""


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


def test_checkpoint_windows_are_tested_where_a_schedule_grows_them(config, tmp_path):
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


# Names


def test_the_configs_of_the_package_are_found_by_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where no configs/ is
    names = mmvitscale.list_configs()
    assert names[0] == 'deepvit_fpn_ade20k' and 'swinv2-t_upernet' in names and not [n for n in names if '_base_' in n]
    assert mmvitscale.list_configs('*_htc_coco') == ['swinv2_htc_coco']
    path = find_config('swinv2_upernet_ade20k')
    for name in ('swinv2_upernet_ade20k.py', 'configs/swinv2_upernet_ade20k.py', 'mmvitscale::swinv2_upernet_ade20k'):
        assert find_config(name) == path
    leaf = find_config('dino-4scale_swinv2-l-w16-in22k_8xb2-12e_coco')
    assert find_config('mmvitscale::swinv2/dino-4scale_swinv2-l-w16-in22k_8xb2-12e_coco.py') == leaf
    assert find_config('configs/swinv2/dino-4scale_swinv2-l-w16-in22k_8xb2-12e_coco.py') == leaf
    assert mmvitscale.load_config('swinv2_fpn_ade20k').model.decode_head.type == 'mmvitscale.FPNHead'


@pytest.mark.parametrize(
    'wrong, hint',
    [
        ('swinv2_uprnet_ade20k', 'did you mean swinv2_upernet_ade20k?'),
        ('/nowhere/swinv2_fpn_ade20k.py', 'list_configs'),
        ('mmvitscale::', 'list_configs'),
        ('deepvit/swinv2_fpn_ade20k', 'list_configs'),
    ],
)
def test_unknown_config_names_are_refused_with_a_hint(wrong, hint):
    with pytest.raises(InputError, match=f'config {re.escape(wrong)} is not there; .*{re.escape(hint)}'):
        load_config(wrong)


@pytest.mark.integration
def test_configs_of_other_packages_are_found_by_path_and_name():
    path = find_config('mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py')
    assert path.parts[-5:-2] == ('mmdet', '.mim', 'configs')
    assert find_config('mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco') == path
    assert find_config('mmdet::mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py') == path
    assert load_config('mmdet::_base_/default_runtime.py').default_scope == 'mmdet'
    name = 'swin/swin-tiny-patch4-window7_upernet_8xb2-160k_ade20k-512x512.py'
    with pytest.raises(InputError, match=f'config mmseg::{name} is not there; did you mean mmseg::swin/swin-tiny.*-in1k-'):
        find_config(f'mmseg::{name}')
    with pytest.raises(InputError, match='config mmdet:: is not there; those of mmdet are in'):
        find_config('mmdet::')


def test_configs_of_packages_that_are_not_there_are_refused():
    for package in ('mmnothing', '', '../mmdet', 'json'):
        with pytest.raises(InputError, match=f'{re.escape(package)}::a/b.py is one of the package {re.escape(package)}, which'):
            find_config(f'{package}::a/b.py')


def test_a_config_inherits_by_name_wherever_it_is(tmp_path):
    """By our loading and by MMEngine's own, and without the scope that would hide mmsegmentation's types."""
    path = tmp_path / 'own.py'
    path.write_text("_base_ = ['mmvitscale::swinv2_upernet_ade20k']\ntrain_dataloader = dict(batch_size=4)\n")
    for read in (load_config, Config.fromfile):
        cfg = read(str(path))
        assert cfg.train_dataloader.batch_size == 4 and cfg.model.backbone.window_size == 16
        assert '_scope_' not in str(cfg._cfg_dict)
    path.write_text("_base_ = 'mmvitscale::swinv2_upernet_coco'\n")
    with pytest.raises(InputError, match='mmvitscale::swinv2_upernet_coco is not there; did you mean'):
        load_config(str(path))


@pytest.mark.integration
@pytest.mark.parametrize('name', ['deepvit_upernet_ade20k', 'swinv2_htc_coco'])
def test_a_dumped_config_equals_the_original(name, tmp_path):
    cfg = load_config(name)
    cfg.dump(str(tmp_path / 'whole.py'))
    assert Config.fromfile(str(tmp_path / 'whole.py'))._cfg_dict == cfg._cfg_dict


@pytest.mark.integration
def test_old_names_work_with_a_note(tmp_path, monkeypatch):
    notes = []
    monkeypatch.setattr(mmengine.logging, 'print_log', lambda text, *args, **kwargs: notes.append(text))
    old, new = 'swinv2-tiny-w16_dino_8xb2-12e_coco', 'swinv2_dino_coco'
    (tmp_path / 'own.py').write_text(f'_base_ = {str(configs_folder() / "swinv2" / old) + ".py"!r}\n')
    for name in (old, f'configs/swinv2/{old}.py', str(tmp_path / 'own.py')):
        notes.clear()
        assert load_config(name).model.type == 'DINO'
        assert len(notes) == 1 and f'{old} is called {new} now' in notes[0]
    renamed = json.loads((configs_folder() / 'renamed.json').read_text())['renamed']
    assert len(renamed) == 25 and set(renamed.values()) <= set(mmvitscale.list_configs())
    assert not set(renamed) & set(mmvitscale.list_configs())


def test_paths_that_are_given_themselves_do_not_move_with_data_root(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(
        "data_root = 'data/a'\n"
        "train = dict(ann_file='data/a/train.json', img='data/a/images')\n"
        "val = dict(ann_file='data/a/v.json')\n"
    )
    options = {'data_root': '/new', 'train.ann_file': 'data/a/other.json', 'val': dict(ann_file='data/a')}
    cfg = load_config(str(path), options)
    assert cfg.train == dict(ann_file='data/a/other.json', img='/new/images')
    assert cfg.val.ann_file == 'data/a' and cfg.data_root == '/new'
