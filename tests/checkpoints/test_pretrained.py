"""Weights and windows through every way of loading: init_cfg, load_from, resume, EMA, plain load_state_dict."""

import hashlib

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmvitscale.checkpoints import io, pretrained
from mmvitscale.checkpoints.convert import convert, weights_in
from mmvitscale.checkpoints.io import fetch, read_checkpoint, write_checkpoint
from mmvitscale.checkpoints.metadata import META_KEY, STATE_DICT_KEY, WindowMetadata
from mmvitscale.errors import InputError
from mmvitscale.models import SwinTransformerV2
from tests.helpers import toy
from tests.helpers.hostile import Attack
from tests.helpers.official_layout import official_state_dict
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.unit

SMALL = dict(embed_dims=8, depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2))


def backbone_cfg(**options):
    return dict(type='mmvitscale.SwinTransformerV2', arch=SMALL, **options)


@pytest.fixture
def official(tmp_path):
    """A file in the official layout, trained with windows 8, 8, 8, 4."""
    source = randomise(SwinTransformerV2(SMALL, [8, 8, 8, 4]))
    path = tmp_path / 'official.pth'
    torch.save(dict(model=official_state_dict(source, (8, 8, 8, 4), (8, 8, 8, 4))), path)
    return source, path


def references(backbone):
    return [stage.pretrained_window for stage in backbone.stages]


@pytest.mark.parametrize('suffix', ['.pth', '.bin', '.safetensors'])
def test_init_cfg_loads_official_files_with_their_pretrained_windows(official, suffix, tmp_path, logged):
    source, path = official
    if suffix == '.bin':
        path = path.rename(path.with_suffix('.bin'))
    if suffix == '.safetensors':
        from safetensors.torch import save_file

        weights = torch.load(path, weights_only=True)['model']
        save_file({key: value.contiguous().clone() for key, value in weights.items()}, path.with_suffix(suffix))
        path = path.with_suffix(suffix)
    backbone = MODELS.build(backbone_cfg(window_size=16, init_cfg=dict(type='mmvitscale.Pretrained', checkpoint=str(path))))
    backbone.init_weights()
    assert references(backbone) == [(8, 8)] * 3 + [(4, 4)]
    assert [stage.window for stage in backbone.stages] == [(16, 16)] * 4
    for name, parameter in source.named_parameters():
        if not name.startswith('out_norms') or name.startswith('out_norms.3'):
            assert torch.equal(backbone.get_parameter(name), parameter), name
    assert 'out_norms.0.weight' in logged[-1] and 'from official' in logged[-1]


def test_pretrained_windows_that_contradict_the_config_are_refused(official):
    source, path = official
    cfg = dict(type='mmvitscale.Pretrained', checkpoint=str(path))
    agreeing = MODELS.build(backbone_cfg(window_size=16, pretrained_window_sizes=[8, 8, 8, 4], init_cfg=cfg))
    agreeing.init_weights()
    contradicting = MODELS.build(backbone_cfg(window_size=16, pretrained_window_sizes=16, init_cfg=cfg))
    with pytest.raises(InputError, match='official.pth: .*windows 8x8, 8x8, 8x8, 4x4, but .* says 16x16 .stage 0'):
        contradicting.init_weights()


def test_unknown_pretrained_windows_come_from_the_config_or_are_warned_of(tmp_path, logged):
    source = randomise(SwinTransformerV2(SMALL, 8))
    weights = {key: value for key, value in source.state_dict().items() if key != STATE_DICT_KEY}
    torch.save(weights, tmp_path / 'a.pth')
    cfg = dict(type='mmvitscale.Pretrained', checkpoint=str(tmp_path / 'a.pth'))
    given = MODELS.build(backbone_cfg(window_size=16, pretrained_window_sizes=8, init_cfg=cfg))
    given.init_weights()
    assert references(given) == [(8, 8)] * 4 and not any('is assumed' in text for text in logged)
    assuming = MODELS.build(backbone_cfg(window_size=16, init_cfg=cfg))
    assuming.init_weights()
    assert references(assuming) == [(16, 16)] * 4
    assert any('window_size is assumed, 16x16' in text for text in logged)
    assert {stage.pretrained_window_source for stage in assuming.stages} == {'assumed'}


def test_another_arch_module_or_position_bias_is_refused(official):
    other = SwinTransformerV2({**SMALL, 'depths': (1, 1, 1, 1)}, 8)
    with pytest.raises(InputError, match='official.pth: it is a SwinV2 .*depths 1,1,2,1.* builds a SwinV2 .*depths 1,1,1,1'):
        pretrained.Pretrained(official[1])(other)
    with pytest.raises(InputError, match="'mmvitscale.Pretrained' was given to a Linear"):
        pretrained.Pretrained(official[1])(nn.Linear(1, 1))
    with pytest.raises(InputError, match='position bias is of the kind log_cpb, but the config says position_bias table'):
        pretrained.Pretrained(official[1])(SwinTransformerV2(SMALL, 8, position_bias='table'))


def test_a_backbone_with_fewer_stages_loads_the_weights_of_its_stages(official):
    source, path = official
    fewer = SwinTransformerV2(SMALL, 8, out_indices=(0, 1))
    pretrained.Pretrained(path)(fewer)
    assert torch.equal(fewer.stages[1].blocks[0].norm1.weight, source.stages[1].blocks[0].norm1.weight)


@pytest.mark.parametrize('route', ['load_state_dict', 'Pretrained', 'mmvitscale.Pretrained'])
def test_a_table_is_resized_bicubically_on_load(route, tmp_path):
    source = randomise(SwinTransformerV2(SMALL, 4, position_bias='table'))
    torch.save(source.state_dict(), tmp_path / 'table.pth')
    cfg = None if route == 'load_state_dict' else dict(type=route, checkpoint=str(tmp_path / 'table.pth'))
    wider = MODELS.build(backbone_cfg(window_size=8, position_bias='table', init_cfg=cfg))
    wider.load_state_dict(source.state_dict()) if cfg is None else wider.init_weights()
    table = source.stages[2].blocks[1].attn.position_bias.table
    expected = nn.functional.interpolate(table[None], size=(15, 15), mode='bicubic', align_corners=False)[0]
    assert torch.equal(wider.stages[2].blocks[1].attn.position_bias.table, expected)


def test_changing_the_window_preserves_the_bias_of_common_offsets():
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        first, second = (tuple(torch.randint(2, 25, (2,), generator=generator).tolist()) for _ in range(2))
        backbone = randomise(SwinTransformerV2(dict(embed_dims=8, depths=(1,), num_heads=(2,)), [first]))
        stage, bias = backbone.stages[0], backbone.stages[0].blocks[0].attn.position_bias
        before = bias(stage.window, stage.pretrained_window)
        backbone.set_window_size([second])
        after = bias(stage.window, stage.pretrained_window)
        assert after.shape[1:] == tuple(2 * n - 1 for n in second)
        common = [min(a, b) for a, b in zip(first, second)]

        def offsets(table, window):
            (top, left), (h, w) = [[n - c for n, c in zip(window, common)], common]
            return table[:, top : top + 2 * h - 1, left : left + 2 * w - 1]

        assert (offsets(before, first) - offsets(after, second)).abs().max() < 1e-6


@pytest.mark.parametrize('route', ['init_cfg', 'load_from', 'resume'])
def test_successive_fine_tunings_keep_the_first_pretrained_window(route, official, tmp_path):
    """w8 (official file) -> w16 -> w24, a training each, with EMA."""
    first = toy.train(
        tmp_path / 'w16', backbone_cfg(window_size=16, init_cfg=dict(type='mmvitscale.Pretrained', checkpoint=str(official[1])))
    )
    expected = [(8, 8)] * 3 + [(4, 4)]
    assert references(first.model.backbone) == expected
    second_checkpoint = str(tmp_path / 'w16' / 'iter_1.pth')

    def fine_tune(name, **options):
        cfg = backbone_cfg(window_size=24, **options)
        if route == 'init_cfg':
            cfg['init_cfg'] = dict(type='mmvitscale.Pretrained', checkpoint=second_checkpoint)
            return toy.train(tmp_path / name, cfg)
        return toy.train(tmp_path / name, cfg, load_from=second_checkpoint, resume=route == 'resume', max_iters=2)

    third = fine_tune('w24')
    assert references(third.model.backbone) == expected
    saved = torch.load(tmp_path / 'w24' / toy.last(tmp_path / 'w24'), weights_only=False)
    for state, prefix in ((saved['state_dict'], ''), (saved['ema_state_dict'], 'module.')):
        assert WindowMetadata.decode(state[f'{prefix}backbone.{STATE_DICT_KEY}']) == WindowMetadata(
            'log_cpb', tuple(expected), ((24, 24),) * 4
        )
    assert saved['meta'][META_KEY] == dict(
        position_bias='log_cpb', reference_windows=[list(window) for window in expected], windows=[[24, 24]] * 4
    )
    reloaded = SwinTransformerV2(SMALL, 32)
    pretrained.Pretrained(tmp_path / 'w24' / toy.last(tmp_path / 'w24'))(reloaded)
    assert references(reloaded) == expected

    with pytest.raises(InputError, match='pretrained_window_sizes says 16x16'):
        fine_tune('contradiction', pretrained_window_sizes=16)


def test_load_from_loads_an_official_file_into_the_backbone(official, tmp_path):
    source, path = official
    runner = toy.train(tmp_path / 'work', backbone_cfg(window_size=16), load_from=str(path), lr=0.0)
    assert references(runner.model.backbone) == [(8, 8)] * 3 + [(4, 4)]
    assert torch.equal(runner.model.backbone.stages[3].blocks[0].norm2.weight, source.stages[3].blocks[0].norm2.weight)


def test_a_converted_checkpoint_loads_with_its_pretrained_windows(official, tmp_path):
    converted = convert(weights_in(read_checkpoint(official[1])))
    write_checkpoint(tmp_path / 'ours.pth', dict(state_dict=converted.state_dict()))
    backbone = MODELS.build(
        backbone_cfg(window_size=16, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'ours.pth')))
    )
    backbone.init_weights()
    assert references(backbone) == [(8, 8)] * 3 + [(4, 4)]
    assert torch.equal(backbone.stages[1].blocks[0].mlp.fc1.weight, official[0].stages[1].blocks[0].mlp.fc1.weight)


def test_init_cfg_refuses_a_checkpoint_that_would_run_code(tmp_path):
    torch.save(dict(state_dict={'a': torch.ones(1)}, meta=Attack(tmp_path / 'marker')), tmp_path / 'evil.pth')
    backbone = MODELS.build(backbone_cfg(init_cfg=dict(type='mmvitscale.Pretrained', checkpoint=str(tmp_path / 'evil.pth'))))
    with pytest.raises(InputError, match='would run code'):
        backbone.init_weights()
    assert not (tmp_path / 'marker').exists()


def test_urls_are_downloaded_once_and_never_partially(official, tmp_path, monkeypatch):
    monkeypatch.setattr(io.torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    url = official[1].as_uri()  # stands for http: urlopen serves both
    path = fetch(url)
    assert path.read_bytes() == official[1].read_bytes()
    assert fetch(url.replace('official', '../' + tmp_path.name + '/official')) != path  # same name, other place
    official[1].unlink()
    assert fetch(url) == path
    monkeypatch.setattr(io, '_copy', lambda *args: (_ for _ in ()).throw(OSError('the connection ended')))
    (tmp_path / 'other.pth').write_text('')
    with pytest.raises(InputError, match='cannot be reached .*the connection ended.*init_cfg=None'):
        fetch((tmp_path / 'other.pth').as_uri())
    assert len(list((tmp_path / 'hub').rglob('*.pth'))) == 2
    with pytest.raises(InputError, match='http://127.0.0.1:9/a.pth cannot be reached'):
        io.read_checkpoint('http://127.0.0.1:9/a.pth')


def test_downloads_are_checked_against_the_sha256_in_name_or_url(tmp_path, monkeypatch):
    monkeypatch.setattr(io.torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    content = b'weights'
    right = hashlib.sha256(content).hexdigest()
    files_of = {
        'plain.pth': True,
        f'swin_v2_t-{right[:8]}.pth': True,
        f'swinv2-tiny-w8_3rdparty_in1k-256px_20220803-{right[:8]}.pth': True,
        f'pinned.pth#sha256={right.upper()}': True,
        'model-20220803.pth': True,
        'swinv2-window8-256.pth': True,  # a date, a side
        'swin_v2_t-0000000a.pth': False,
        'swinv2-00160000.pth': True,  # iterations
        f'other.pth#sha256={"0" * 64}': False,
    }
    for name, good in files_of.items():
        name, fragment = (name + '#').split('#')[:2]
        (tmp_path / name).write_bytes(content)
        url = (tmp_path / name).as_uri() + (f'#{fragment}' if fragment else '')
        if good:
            assert fetch(url).read_bytes() == content
        else:
            with pytest.raises(InputError, match='gave another file than it promises: its SHA-256 begins with'):
                fetch(url)
    assert len([path for path in (tmp_path / 'hub').rglob('*') if path.is_file()]) == 7  # nothing of the two
