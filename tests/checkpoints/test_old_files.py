"""Files that mmvitscale 0.1.0 wrote (``data/v1_*.pth``): it kept pretrained windows in buffers of the stages, and windows in
the meta of checkpoints alone. ``v1_expected.pth`` holds what its models gave."""

import shutil
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import load_checkpoint

from mmvitscale.checkpoints.io import read_checkpoint
from mmvitscale.checkpoints.loading import adapt_checkpoint
from mmvitscale.checkpoints.window_policy import apply_checkpoint_windows
from mmvitscale.errors import InputError
from mmvitscale.models.deepvit import position_embedding
from tests.helpers import toy

pytestmark = pytest.mark.unit

DATA = Path(__file__).parent / 'data'
ARCH = dict(embed_dims=8, depths=(1, 2), num_heads=(1, 2))
BACKBONES = {
    'log_cpb': dict(type='mmvitscale.SwinTransformerV2', arch=ARCH, window_size=8),
    'linear_cpb': dict(type='mmvitscale.SwinTransformerV2', arch=ARCH, window_size=8, position_bias='linear_cpb'),
    'table': dict(type='mmvitscale.SwinTransformerV2', arch=ARCH, window_size=8, position_bias='table'),
    'deepvit': dict(
        type='mmvitscale.DeepViT',
        arch=dict(embed_dims=12, depth=2, re_attention=1, num_heads=3),
        img_size=(64, 32),
        reatten_statistics='running',
    ),  # the only form then
}
GROWS = [dict(begin=0, window_size=4), dict(begin=1, window_size=8)]


@pytest.fixture(scope='module')
def expected():
    return torch.load(DATA / 'v1_expected.pth', weights_only=True)


def check(backbone, expected, name):
    with torch.no_grad():
        outs = backbone.eval()(expected['image'])
    assert len(outs) == len(expected['expected'][name])
    for out, right in zip(outs, expected['expected'][name]):
        assert torch.allclose(out, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('way', ['load_state_dict', 'init_cfg'])
@pytest.mark.parametrize('name', BACKBONES)
def test_v1_backbones_load_strictly_and_give_the_v1_outputs(name, way, expected, logged, monkeypatch):
    # The image is smaller than the grid; positions shrank without antialiasing then.
    weights = position_embedding.cubic_weights
    monkeypatch.setattr(position_embedding, 'cubic_weights', lambda places, cells, grows: weights(places, cells, 1))
    path = str(DATA / f'v1_{name}.pth')
    if way == 'init_cfg':
        backbone = MODELS.build({**BACKBONES[name], 'init_cfg': dict(type='Pretrained', checkpoint=path)})
        backbone.init_weights()
        (line,) = logged
        assert 'missing (initialised): none' in line and ', 0 unexpected' in line
    else:
        backbone = MODELS.build(BACKBONES[name])
        keys = backbone.load_state_dict(torch.load(path, weights_only=True), strict=True)
        assert not keys.missing_keys and not keys.unexpected_keys and not logged
    check(backbone, expected, name)
    if name.endswith('cpb'):
        assert [stage.pretrained_window for stage in backbone.stages] == [(4, 4)] * 2
        assert [stage.pretrained_window_source for stage in backbone.stages] == ['checkpoint'] * 2


def test_v1_models_load_through_mmengine_load_checkpoint(expected, capsys):
    model = toy.Toy(BACKBONES['log_cpb'])
    load_checkpoint(model, str(DATA / 'v1_run.pth'), map_location='cpu')
    assert 'do not match' not in ''.join(capsys.readouterr())
    check(model.backbone, expected, 'run')


def test_v1_runs_with_grown_windows_are_tested_with_the_last_windows(expected):
    """They stand in its meta alone."""
    model = toy.Toy({**BACKBONES['log_cpb'], 'window_size': 4})
    content = read_checkpoint(DATA / 'v1_run.pth')
    entries = adapt_checkpoint(model, content, 'v1_run.pth', strict=True)
    growing = dict(custom_hooks=[dict(type='mmvitscale.ProgressiveWindowHook', schedule=GROWS)])
    (line,) = apply_checkpoint_windows(model, entries, growing)
    assert 'the windows of 8x8 tokens that the weights last ran with are used, not the 4x4 of the config' in line
    model.load_state_dict(content['state_dict'])
    check(model.backbone, expected, 'run')

    model = toy.Toy({**BACKBONES['log_cpb'], 'window_size': 4})
    (line,) = apply_checkpoint_windows(
        model, adapt_checkpoint(model, read_checkpoint(DATA / 'v1_run.pth'), 'v1_run.pth', strict=True), {}
    )
    assert line == 'the weights last ran with windows of 8x8 tokens, here they run with 4x4'
    assert model.backbone.stages[0].window == (4, 4)


def test_v1_runs_with_ema_weights_can_be_resumed(tmp_path):
    shutil.copy(DATA / 'v1_run.pth', tmp_path / 'iter_2.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_2.pth'))
    old = read_checkpoint(DATA / 'v1_run.pth')
    hook = dict(type='mmvitscale.ProgressiveWindowHook', schedule=GROWS)
    runner = toy.train(tmp_path, {**BACKBONES['log_cpb'], 'window_size': 4}, [hook], max_iters=3, resume=True)
    assert runner.iter == 3 and runner.model.seen == [((32, 32), [8, 8])]
    assert [stage.pretrained_window for stage in runner.model.backbone.stages] == [(4, 4)] * 2
    new = read_checkpoint(tmp_path / 'iter_3.pth')
    for state in ('state_dict', 'ema_state_dict'):  # one step on, and so almost what they were; the hook exchanges the two
        for key, value in old[state].items():
            if value.is_floating_point():
                assert torch.allclose(new[state][key], value, atol=0.01), (state, key)
    assert new['ema_state_dict']['steps'] == old['ema_state_dict']['steps'] + 1


def test_a_file_of_a_later_version_is_refused():
    backbone = MODELS.build(BACKBONES['log_cpb'])
    state = backbone.state_dict()
    assert state._metadata['']['version'] == 2
    state._metadata['']['version'] = 4
    with pytest.raises(InputError, match=r'written by a newer mmvitscale \(format 4, this one knows up to 3\)'):
        backbone.load_state_dict(state)


# Files that mmvitscale 0.3.0 wrote: the state dict of a model around the backbone. ``v3_expected.pth`` holds what it gave.
OF_0_3 = {
    'log_cpb': dict(type='mmvitscale.SwinTransformerV2', arch=ARCH, window_size=8),
    'table': dict(type='mmvitscale.SwinTransformerV2', arch=ARCH, window_size=8, position_bias='table'),
    'deepvit': dict(type='mmvitscale.DeepViT', arch=dict(embed_dims=12, depth=2, re_attention=1, num_heads=3), img_size=64),
}


@pytest.mark.parametrize('way', ['load_state_dict', 'init_cfg'])
@pytest.mark.parametrize('name', OF_0_3)
def test_checkpoints_of_0_3_give_equal_outputs(name, way):
    path = DATA / f'v3_{name}.pth'
    init_cfg = dict(type='Pretrained', checkpoint=str(path)) if way == 'init_cfg' else None
    backbone = MODELS.build(dict(OF_0_3[name], init_cfg=init_cfg))
    if way == 'init_cfg':
        backbone.init_weights()
    else:
        content = read_checkpoint(path)
        backbone.load_state_dict(content['state_dict'])
    saved = torch.load(DATA / 'v3_expected.pth', weights_only=True)
    check(backbone, saved, name)
    if name == 'log_cpb':
        assert [stage.pretrained_window for stage in backbone.stages] == [(4, 4)] * 2


def test_configs_with_the_names_of_before_are_built_with_a_warning(monkeypatch):
    """Of the time between 0.3.0 and now, as checkpoints hold them."""
    import mmengine.logging

    lines = []
    monkeypatch.setattr(
        mmengine.logging, 'print_log', lambda text, *args, **kwargs: lines.append(text) if ' is called ' in text else None
    )
    swin = MODELS.build(dict(OF_0_3['log_cpb'], similarity='dot_product'))
    assert swin.stages[0].blocks[0].attn.logit_scale is None
    old = dict(OF_0_3['deepvit'], similarity_weight=0.5, reatten_statistics='carried')
    deepvit = MODELS.build(old)
    assert deepvit.similarity_loss_weight == 0.5 and deepvit.blocks[1].attn.statistics == 'token_invariant'
    neck = MODELS.build(dict(type='mmvitscale.GlobalAttention', in_channels=8, num_heads=2, reference_window=4))
    assert neck.pretrained_window == (4, 4)
    assert len(lines) == 4 and 'similarity is called attention_type now' in lines[0]
    # An override of then, over a recipe that has the new name.
    swin = MODELS.build(dict(OF_0_3['log_cpb'], similarity='dot_product', attention_type='cosine'))
    assert swin.stages[0].blocks[0].attn.logit_scale is None and "now; it replaces attention_type='cosine'" in lines[-1]
    with pytest.raises(InputError, match=r"unknown reatten_statistics \['carried'\]"):
        MODELS.build(dict(OF_0_3['deepvit'], reatten_statistics=['carried']))
