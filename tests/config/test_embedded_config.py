"""The config in a checkpoint: what is written, what is read, and that a stranger's runs nothing.

``python -m pytest tests/config/test_embedded_config.py -rP | grep '^| '`` prints the table of hostile ones: what is in the
file, exit status, what is said.
"""

import copy
import pickle
import re
import zipfile

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

import mmvitscale
from mmvitscale.config.embedded import META_KEY, embed_config, load_embedded_config
from mmvitscale.config.names import list_configs
from mmvitscale.errors import InputError
from mmvitscale.inference import Predictor, build_model
from tests.helpers.hostile import Attack
from tests.helpers.loaded import load

pytestmark = pytest.mark.integration

SMALL = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))


def small_config():
    cfg = load('swinv2_upernet_mini')
    cfg.model.backbone.arch = SMALL
    cfg.model.decode_head.update(in_channels=[8, 16, 32, 64], channels=16)
    cfg.model.auxiliary_head.update(in_channels=32, channels=16)
    return cfg


@pytest.fixture(scope='module')
def content():
    """What a file holds."""
    cfg = small_config()
    meta = dict(cfg='a = 1', dataset_meta=dict(classes=[f'c{i}' for i in range(10)]))
    return dict(state_dict=build_model(cfg).state_dict(), meta={**meta, META_KEY: embed_config(cfg)})


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with an image, a pickle that runs code, and a package that does when it is imported; ``ran`` is there if any of
    them has."""
    cv2.imwrite(str(tmp_path / 'a.png'), np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    (tmp_path / 'attack.pkl').write_bytes(pickle.dumps(Attack(tmp_path / 'ran')))
    torch.save(dict(state_dict=Attack(tmp_path / 'ran')), tmp_path / 'attack.pth')
    (tmp_path / 'attack.py').write_text(f'import os\nos.mkdir({str(tmp_path / "ran")!r})\n')
    (tmp_path / 'evil').mkdir()
    for name in ('__init__', 'registry'):
        (tmp_path / 'evil' / f'{name}.py').write_text((tmp_path / 'attack.py').read_text())
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def at(path, value, **beside):
    """Changes the config: the value at a path of keys, and others beside it; P in text is the folder."""

    def change(config, folder):
        *keys, last = path.split('.')
        part = config
        for key in keys:
            part = part[int(key)] if isinstance(part, list) else part.setdefault(key, {})
        part[int(last) if isinstance(part, list) else last] = _filled(value, str(folder))
        for key, item in beside.items():
            part[key] = _filled(item, str(folder))

    return change


def _filled(value, folder):
    if isinstance(value, dict):
        return {key: _filled(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, folder) for item in value]
    return value.replace('P/', f'{folder}/') if isinstance(value, str) else value


def circle(config, folder):
    config['model']['backbone']['arch'] = loop = []
    loop.append(loop)


def billion_laughs(config, folder):
    value = 'ha' * 1000
    for _ in range(12):
        value = [value] * 10
    config['model']['backbone']['arch'] = value


CODE = '__import__("os").mkdir("P/ran")'
HEAD, STEP, DATA = 'model.decode_head.type', 'test_dataloader.dataset.pipeline.0', 'test_dataloader.dataset'
# What is in the file -> what is done to the config, what is said.
HOSTILE = {
    'suppression that mmcv evaluates': (
        at('model.test_cfg.nms', dict(type=CODE)),
        r"type '__import__.*in model\.test_cfg\.nms",
    ),
    'os.system as model': (at('model.type', 'os.system', command='touch P/ran'), r"type 'os\.system' in model,"),
    'builtins.eval as backbone': (at('model.backbone', dict(type='builtins.eval')), r"'builtins\.eval' in model\.backbone"),
    'subprocess.Popen as head': (
        at(HEAD, 'subprocess.Popen', args='touch P/ran'),
        r"'subprocess\.Popen' in model\.decode_head",
    ),
    'torch.load as neck': (at('model.neck', dict(type='torch.load', f='P/attack.pth')), r"'torch\.load' in model\.neck"),
    'runner of MMEngine': (
        at('model.backbone.type', 'mmengine.runner.Runner'),
        r"'mmengine\.runner\.Runner' in model\.backbone",
    ),
    'class of ours by its path': (at('model.backbone.type', 'mmvitscale.models.swin_v2.backbone.SwinTransformerV2'), 'type'),
    'teacher whose config is Python': (
        at('model.type', 'mmdet.KnowledgeDistillationSingleStageDetector', teacher_config='P/attack.py'),
        'KnowledgeDistillation',
    ),
    'backbone that is downloaded': (at('model.backbone', dict(type='mmseg.TIMMBackbone', model_name='a')), 'TIMMBackbone'),
    'transform as backbone': (at('model.backbone', dict(type='LoadImageFromFile')), 'LoadImageFromFile'),
    'type that is a list': (at('model.backbone.type', ['os', 'system']), "type 'list'"),
    'type of two lines': (at('model.backbone.type', 'a\nb'), r"type 'a\\nb'"),
    'package as default_scope': (at('default_scope', 'evil'), "default_scope 'evil', but it is one of mmengine"),
    'package as scope of a type': (at('model.backbone.type', 'evil.Net'), r"'evil\.Net' in model\.backbone"),
    'package as _scope_': (at('model.backbone._scope_', 'evil'), "_scope_ 'evil' in model.backbone"),
    'package as _scope_ of data': (at(f'{DATA}._scope_', 'evil'), "_scope_ 'evil' in test_dataloader.dataset"),
    'path in the model': (at('model.decode_head.text', 'P/attack.pkl'), r"file or address '.*in model\.decode_head\.text"),
    'address in the model': (at('model.backbone.name', 'hf-hub:someone/model'), "address 'hf-hub:someone/model'"),
    'step that looks functions up': (
        at(STEP, dict(type='Albu', transforms=[dict(type='Lambda')])),
        "'Albu' in test_dataloader",
    ),
    'step of torchvision': (at(STEP, dict(type='torchvision/Lambda', lambd=CODE)), 'torchvision/Lambda'),
    'step that maps keys': (at(STEP, dict(type='KeyMapper', transforms=[dict(type='os.system')])), 'KeyMapper'),
    'step inside a step': (
        at('tta_pipeline', [dict(type='TestTimeAug', transforms=[[dict(type='os.system', command='touch P/ran')]])]),
        r"'os\.system' in tta_pipeline\.0\.transforms\.0\.0",
    ),
    'step that unpickles': (at(STEP, dict(type='LoadBiomedicalData', decode_backend='pickle')), 'LoadBiomedicalData'),
    'pipeline that is no list': (at(f'{DATA}.pipeline', dict(type='os.system')), 'pipeline that is no list of dicts'),
    'data set that unpickles': (
        at(f'{DATA}.type', 'mmdet.OpenImagesDataset', hierarchy_file='P/attack.pkl'),
        'OpenImagesDataset',
    ),
    'data set inside a data set': (
        at(DATA, dict(type='ConcatDataset', datasets=[dict(type='os.system')])),
        r"'os\.system' in test_dataloader\.dataset\.datasets\.0",
    ),
    'annotations from the network': (at(f'{DATA}.ann_file', 'http://127.0.0.1:9/a.txt'), "address 'http://127.0.0.1:9/a.txt'"),
    'annotations that unpickle': (at(f'{DATA}.ann_file', 'P/attack.pkl'), r'attack\.pkl'),
    'annotations in YAML': (at(f'{DATA}.ann_file', 'P/attack.yaml'), r'attack\.yaml'),
    'batch size that is a dict': (at('test_dataloader.batch_size', dict(type='os.system')), 'batch_size .*no whole number'),
    'metric that writes': (at('test_evaluator', dict(type='mmengine.DumpResults', out_file_path='P/ran')), 'DumpResults'),
    'metric that is none': (at('test_evaluator', [dict(type='os.system')]), r"'os\.system' in test_evaluator\.0"),
    'circle': (circle, 'nested deeper than 40 times'),
    'gigabytes of one text': (billion_laughs, 'larger than 200000 values'),
    'key that is a number': (lambda config, folder: config['model'].update({1: 2}), 'a key that is no text'),
    'tensor': (at('model.backbone.window_size', torch.zeros(3)), 'a Tensor, which is no plain data'),
    'array': (at('model.backbone.window_size', np.zeros(3)), 'a ndarray, which is no plain data'),
    'number of more than 64 bits': (at('model.backbone.window_size', 2**63), 'a int, which is no plain data'),
    'no model': (at('model', None), 'has no model, a dict'),
    'model that is a list': (at('model', [1]), 'model that is no dict'),
}


@pytest.mark.parametrize('name', HOSTILE)
def test_a_hostile_config_runs_nothing_and_is_refused_in_one_line(name, content, place, error_of):
    change, says = HOSTILE[name]
    hostile = copy.deepcopy(content)
    change(hostile['meta'][META_KEY]['config'], place)
    torch.save(hostile, place / 'best.pth')
    line = error_of('tools/predict.py', place / 'best.pth', place / 'a.png', '--out', place / 'out')
    print(f'| {name} | 1 | {line} |'.replace(str(place), 'D'))
    assert re.search(says, line) and 'best.pth' in line, line
    assert not (place / 'ran').exists() and not (place / 'out/a.png').exists()


def test_at_least_20_hostile_configs_are_defined():
    assert len(HOSTILE) >= 20


def test_a_config_nested_a_hundred_thousand_times_is_refused(place, error_of):
    """As no pickler writes it."""

    def text(value):
        return b'X' + len(value).to_bytes(4, 'little') + value.encode()

    deep = b']' * 10**5 + b'a' * (10**5 - 1)
    entry = b'}' + text('version') + b'K\x01s' + text('config') + b'}' + text('model') + deep + b's' + b's'
    pickled = b'\x80\x02}' + text('meta') + b'}' + text(META_KEY) + entry + b's' + b's' + b'.'
    torch.save({}, place / 'plain.pth')
    with zipfile.ZipFile(place / 'plain.pth') as before, zipfile.ZipFile(place / 'best.pth', 'w') as after:
        for item in before.infolist():
            after.writestr(item.filename, pickled if item.filename.endswith('data.pkl') else before.read(item))
    line = error_of('tools/predict.py', place / 'best.pth', place / 'a.png', '--out', place / 'out')
    assert 'nested deeper than 40 times' in line


LEFT_OUT = {
    'custom_imports': at('custom_imports', dict(imports=['evil'], allow_failed_imports=False)),
    '_base_': at('_base_', 'P/attack.py'),
    'load_from': at('load_from', 'P/attack.pth'),
    'hooks': at('custom_hooks', [dict(type='evil.Hook')]),
    'visualizer': at('visualizer', dict(type='evil.Visualizer', vis_backends=[dict(type='evil.Backend')])),
    'runner': at('runner_type', 'evil.Runner'),
    'init_cfg of the model': at('model.init_cfg', dict(type='Pretrained', checkpoint='P/attack.pth')),
    'init_cfg of the backbone': at('model.backbone.init_cfg', dict(type='evil.Init')),
    'pretrained': at('model.pretrained', 'P/attack.pth'),
    'class_weight in a file': at('model.decode_head.loss_decode.class_weight', 'attack.pkl'),
    'backend of files': at(f'{STEP}.backend_args', dict(backend='evil')),
    'loop': at('test_cfg', dict(type='evil.Loop')),
    'collate function': at('test_dataloader.collate_fn', dict(type='evil.collate')),
    'sampler': at('test_dataloader.sampler', dict(type='evil.Sampler')),
    'text in metainfo': at(f'{DATA}.metainfo', dict(classes='P/attack.py', palette='http://127.0.0.1:9/')),
    'evaluator that would write': at('test_evaluator.output_dir', 'P/ran'),
}


@pytest.mark.parametrize('name', LEFT_OUT)
def test_what_predicting_does_not_need_is_not_read(name, content, place):
    """In Python, without the tools' guards."""
    hostile = copy.deepcopy(content)
    LEFT_OUT[name](hostile['meta'][META_KEY]['config'], place)
    torch.save(hostile, place / 'best.pth')
    torch.save(content, place / 'plain.pth')
    found = [Predictor(str(place / file))(place / 'a.png').pred_sem_seg.data for file in ('best.pth', 'plain.pth')]
    assert torch.equal(*found) and not (place / 'ran').exists()
    cfg = load_embedded_config(str(place / 'best.pth'))
    assert 'evil' not in str(cfg._cfg_dict) and 'attack' not in str(cfg._cfg_dict) and '127' not in str(cfg._cfg_dict)


@pytest.mark.parametrize(
    ('meta', 'says'),
    [
        (dict(cfg='model = dict()'), 'holds its config only as Python code.*; give the config before it: CONFIG '),
        (dict(config='model = dict()', CLASSES=['a']), 'only as Python code'),
        ({}, 'holds no config; give the config before it'),
        (None, 'holds no config'),
        ({META_KEY: dict(version=2, config={})}, 'of another version of mmvitscale, or damaged'),
        ({META_KEY: [1]}, 'of another version'),
    ],
)
def test_a_file_without_a_config_says_what_it_lacks(meta, says, content, tmp_path):
    torch.save(dict(state_dict=content['state_dict'], meta=meta), tmp_path / 'old.pth')
    with pytest.raises(InputError, match=says):
        Predictor(tmp_path / 'old.pth')
    assert Predictor(small_config(), tmp_path / 'old.pth').model  # as it advises
    with pytest.raises(InputError, match='weights alone and no config'):
        Predictor('weights.safetensors')
    with pytest.raises(InputError, match='a config without a checkpoint'):
        Predictor(small_config())


def test_every_recipe_goes_into_a_checkpoint_and_comes_back(tmp_path):
    """With what predicting and testing take from it, in few kilobytes."""
    for name in list_configs():
        own = load(name)
        entry = embed_config(own)
        assert len(pickle.dumps(entry)) < 40_000
        torch.save(dict(meta={META_KEY: entry}), tmp_path / f'{name}.pth')
        cfg = load_embedded_config(str(tmp_path / f'{name}.pth'))
        assert cfg.filename == str(tmp_path / f'{name}.pth')
        for key in ('default_scope', 'data_root', 'predict_pipeline', 'tta_pipeline', 'test_evaluator'):
            assert _without(own.get(key)) == _without(cfg.get(key)), (name, key)
        assert _without(own.model) == _without(cfg.model), name
        if own.get('test_dataloader'):
            assert _without(own.test_dataloader.dataset) == _without(cfg.test_dataloader.dataset), name


def _without(value):
    """Nested values without what is left out, and without empty text, which is no path."""
    dropped = ('init_cfg', 'backend_args', 'batch_augments', 'augments', 'format_only')
    if isinstance(value, dict):
        return {key: _without(item) for key, item in value.items() if key not in dropped}
    return [_without(item) for item in value] if isinstance(value, (list, tuple)) else value or None


def test_values_become_plain_data(tmp_path):
    from mmseg.models import SegDataPreProcessor
    from torch import nn

    (tmp_path / 'names.txt').write_text('cat\ndog\n')
    cfg = Config(
        dict(
            default_scope='mmseg',
            model=dict(type=SegDataPreProcessor, act=dict(type=nn.GELU), mean=np.array([1.5, 2]), size=(3, np.int64(4))),
            test_dataloader=dict(dataset=dict(metainfo=dict(classes=str(tmp_path / 'names.txt')), data_root=tmp_path)),
            optim_wrapper=dict(dtype=torch.bfloat16, amp='bfloat16'),
            custom_hooks=[dict(type=print)],
            nothing=None,
        )
    )
    entry = embed_config(cfg)['config']
    assert entry['model'] == dict(
        type='mmseg.SegDataPreProcessor', act=dict(type='mmengine.GELU'), mean=[1.5, 2.0], size=(3, 4)
    )
    assert type(entry['model']['size'][1]) is int
    assert entry['test_dataloader']['dataset'] == dict(metainfo=dict(classes=['cat', 'dog']), data_root=str(tmp_path))
    assert entry['nothing'] is None and 'optim_wrapper' not in entry and 'custom_hooks' not in entry
    cfg.model.dtype = torch.bfloat16
    with pytest.raises(ValueError, match=r'model\.dtype is a dtype, which is no plain data'):
        embed_config(cfg)


def test_a_config_that_is_no_data_is_left_out_with_one_line(tmp_path):
    from types import SimpleNamespace

    from mmvitscale.engine.hooks import EmbeddedConfigHook

    lines = []
    cfg = small_config()
    runner = SimpleNamespace(cfg=cfg, logger=SimpleNamespace(warning=lines.append))
    hook, checkpoint = EmbeddedConfigHook(), dict(meta={})
    hook.before_save_checkpoint(runner, checkpoint)
    assert META_KEY in checkpoint['meta'] and not lines
    cfg.model.decode_head.sampler = print
    for _ in range(2):
        checkpoint = dict(meta={})
        hook.before_save_checkpoint(runner, checkpoint)
        assert checkpoint['meta'] == {}
    assert len(lines) == 1 and 'model.decode_head.sampler' in lines[0]


def test_options_override_it_and_data_move(content, tmp_path):
    path = str(tmp_path / 'best.pth')
    torch.save(content, path)
    cfg = load_embedded_config(path, {'data_root': '/elsewhere', 'model.test_cfg.mode': 'slide'})
    assert cfg.test_dataloader.dataset.data_root == '/elsewhere' and cfg.model.test_cfg.mode == 'slide'
    own = copy.deepcopy(content)
    del own['meta'][META_KEY]['config']['data_root']  # of a config that names the place in its data set alone
    torch.save(own, path)
    assert load_embedded_config(path, {'data_root': '/elsewhere'}).test_dataloader.dataset.data_root == '/elsewhere'
    with pytest.raises(InputError, match=r'--cfg-options do not fit the config in .*best\.pth'):
        load_embedded_config(path, {'model.backbone.window_size.a.b': 1})


def test_windows_that_grew_are_those_of_the_checkpoint():
    cfg = small_config()
    cfg.custom_hooks = [dict(type='mmvitscale.ProgressiveWindowHook', schedule=[dict(begin=0, window_size=8)])]
    assert embed_config(cfg)['config']['test_windows'] == 'checkpoint'
    assert embed_config(small_config())['config']['test_windows'] == 'config'


def test_the_predictor_is_at_the_top_of_the_package():
    assert mmvitscale.Predictor is Predictor
    with pytest.raises(AttributeError):
        mmvitscale.nothing  # noqa: B018
