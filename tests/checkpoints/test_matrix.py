"""Every layout by every way in: loads right, or is refused in one sentence. ``pytest -s`` prints the matrix."""

import itertools
import re

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import load_checkpoint

from mmvitscale.errors import InputError
from mmvitscale.models import DeepViT, SwinTransformerV2
from tests.helpers import toy
from tests.helpers.layouts import ARCH, LAYOUTS, VIT, build_cfg, difference, official
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.integration


def by_init_cfg(kind):

    def load(cfg, path, find, tmp_path):
        backbone = MODELS.build({**cfg, 'init_cfg': dict(type=kind, checkpoint=path)})
        backbone.init_weights()
        return backbone

    return load


def by_load_from(cfg, path, find, tmp_path):
    return toy.train(tmp_path / 'work', cfg, load_from=path, lr=0.0).model.backbone


def by_load_state_dict(cfg, path, find, tmp_path):
    backbone = MODELS.build(cfg)
    backbone.load_state_dict(find(torch.load(path, weights_only=True)))
    return backbone


def by_load_state_dict_of_a_model(cfg, path, find, tmp_path):
    model, weights = toy.Toy(cfg), find(torch.load(path, weights_only=True))
    inside = all(key.startswith(('backbone.', 'decode', 'rpn', 'head')) for key in weights)
    model.load_state_dict(weights if inside else {f'backbone.{key}': value for key, value in weights.items()}, strict=False)
    return model.backbone


def by_mmengine(cfg, path, find, tmp_path):
    """As OpenMMLab's inferencers load: no runner, no hook. They expect the weights of a whole model."""
    weights = find(torch.load(path, weights_only=True))
    inside = all(key.startswith(('backbone.', 'decode', 'rpn', 'head')) for key in weights)
    torch.save(
        dict(state_dict=weights if inside else {f'backbone.{key}': value for key, value in weights.items()}),
        tmp_path / 'whole.pth',
    )
    model = toy.Toy(cfg)
    load_checkpoint(model, str(tmp_path / 'whole.pth'), map_location='cpu')
    return model.backbone


WAYS = {
    'init_cfg ours': by_init_cfg('mmvitscale.Pretrained'),
    'init_cfg Pretrained': by_init_cfg('Pretrained'),
    'load_from': by_load_from,
    'load_state_dict': by_load_state_dict,
    'whole load_state_dict': by_load_state_dict_of_a_model,
    'mmengine load_checkpoint': by_mmengine,
}


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """layout -> (file, path), made once."""
    made = {}

    def get(layout):
        if layout not in made:
            torch.manual_seed(0)
            path = tmp_path_factory.mktemp('layouts') / 'file.pth'
            file = LAYOUTS[layout]()
            torch.save(file.content, path)
            made[layout] = file, str(path)
        return made[layout]

    return get


@pytest.fixture(scope='module')
def matrix():
    cells = {}
    yield cells
    width = max(map(len, LAYOUTS))
    print("\n\nLargest difference from the library's own outputs, relative: same window | twice the window")
    print(' ' * width + '  ' + '  '.join(way.rjust(13) for way in WAYS))
    for layout in LAYOUTS:
        row = (' | '.join(cells.get((layout, way, larger), '-') for larger in (False, True)) for way in WAYS)
        print(layout.ljust(width) + '  ' + '  '.join(cell.rjust(max(13, len(way))) for cell, way in zip(row, WAYS)))


def cells():
    """All of layout x way of loading x window; the quick half has every pair of two of them."""
    for (i, layout), (j, way), larger in itertools.product(enumerate(LAYOUTS), enumerate(WAYS), (False, True)):
        quick = (i + j + larger) % 2 == 0
        yield pytest.param(
            layout, way, larger, id=f'{layout}-{way}-{"larger" if larger else "same"}', marks=() if quick else pytest.mark.slow
        )


@pytest.mark.parametrize('layout, way, larger', cells())
def test_every_layout_loads_correctly_by_every_way_of_loading(layout, way, larger, files, matrix, tmp_path):
    file, path = files(layout)
    backbone = WAYS[way](build_cfg(layout, file, larger), path, file.weights, tmp_path)
    found = difference(layout, file, backbone, larger)
    matrix[layout, way, larger] = f'{found:.0e}'
    assert found < 1e-5


# Ways in which a file can be damaged, or wrapped and cast: functions of its weights.

KINDS = {  # by whatever name a library calls them
    'norm': r'.*(norm1|layernorm_before)\.weight',
    'patch': r'.*(patch_embed\.proj|projection|features\.0\.0)\.weight',
    'qkv': r'.*(qkv|self\.query)\.weight',
    'fc1': r'.*(mlp\.fc1|intermediate\.dense|ffn\.layers\.0\.0|mlp\.0)\.weight',
}


def first(weights, kind):
    return next(key for key in weights if re.fullmatch(KINDS[kind], key))


def without(kind):
    return lambda weights: {key: value for key, value in weights.items() if key != first(weights, kind)}


def renamed(kind):
    return lambda weights: {key + 's' if key == first(weights, kind) else key: value for key, value in weights.items()}


def changed(kind, change):
    return lambda weights: {key: change(value) if key == first(weights, kind) else value for key, value in weights.items()}


def cast(dtype):
    return lambda weights: {key: value.to(dtype) if value.is_floating_point() else value for key, value in weights.items()}


def behind(prefix):
    return lambda weights: {prefix + key: value for key, value in weights.items()}


REFUSED = {
    'a weight of a norm missing': without('norm'),
    'the patch embedding missing': without('patch'),
    'the qkv weight missing': without('qkv'),
    'the bias of an MLP missing': lambda weights: {
        key: value for key, value in weights.items() if key != first(weights, 'fc1').replace('weight', 'bias')
    },
    'all of the first blocks missing': lambda weights: {
        key: value for key, value in weights.items() if 'blocks.0.' not in key and '.1.0.' not in key
    },
    'every second key missing': lambda weights: dict(list(weights.items())[::2]),
    'the patch embedding renamed': renamed('patch'),
    'a norm renamed': renamed('norm'),
    'an unknown key in a block': lambda weights: {**weights, first(weights, 'fc1').replace('weight', 'gamma'): torch.ones(3)},
    'transposed': changed('fc1', lambda value: value.T),
    'of a wider variant': lambda weights: {
        key: torch.cat((value, value)) if value.ndim == 1 else value for key, value in weights.items()
    },
    'of a deeper variant': lambda weights: {
        **weights,
        **{
            key.replace('blocks.0.', 'blocks.7.').replace('features.1.0.', 'features.1.7.'): value
            for key, value in weights.items()
            if 'blocks.0.' in key or 'features.1.0.' in key
        },
    },
    'a scalar in place of a weight': changed('qkv', lambda value: torch.ones(())),
    'an empty weight': changed('norm', lambda value: value[:0]),
    'a list in place of a weight': changed('norm', lambda value: value.tolist()),
    'nothing but a head': lambda weights: {'head.weight': torch.ones(10, 64)},
}
LOADED = {
    'half precision': cast(torch.float16),
    'bfloat16': cast(torch.bfloat16),
    'double precision': cast(torch.float64),
    'of DDP': behind('module.'),
    'of torch.compile': behind('_orig_mod.'),
    'of DDP around torch.compile': behind('module._orig_mod.'),
    'averages only': lambda weights: dict(state_dict_ema=weights, state_dict={}, epoch=3),
    'of Lightning': lambda weights: dict(state_dict=behind('model.')(weights), **{'pytorch-lightning_version': '2'}),
    'of DeepSpeed': lambda weights: dict(module=weights, global_steps=7),
}


def thirds(variants):
    """(layout, a third of the variants); each layout has another third among the quick tests."""
    for i, layout in enumerate(LAYOUTS):
        for part in range(3):
            yield pytest.param(
                layout, list(variants)[part::3], id=f'{layout}-{part}', marks=() if part == i % 3 else pytest.mark.slow
            )


@pytest.mark.parametrize('layout, names', thirds(REFUSED))
def test_damaged_variants_are_refused_in_one_sentence_and_change_nothing(layout, names, files, tmp_path):
    file, _ = files(layout)
    for name, change in ((name, REFUSED[name]) for name in names):
        torch.save(change(file.weights(file.content)), tmp_path / 'damaged.pth')
        cfg = build_cfg(layout, file, False, dict(type='Pretrained', checkpoint=str(tmp_path / 'damaged.pth')))
        backbone = MODELS.build(cfg)
        before = {key: value.clone() for key, value in backbone.state_dict().items()}
        with pytest.raises(InputError) as refused:
            backbone.init_weights()
            pytest.fail(name)
        assert 'damaged.pth' in str(refused.value) and '\n' not in str(refused.value), name
        assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items()), name


@pytest.mark.parametrize('layout, names', thirds(LOADED))
def test_wrapped_and_cast_variants_load(layout, names, files, tmp_path):
    file, _ = files(layout)
    for name, change in ((name, LOADED[name]) for name in names):
        torch.save(change(file.weights(file.content)), tmp_path / 'wrapped.pth')
        init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'wrapped.pth'))
        backbone = MODELS.build(build_cfg(layout, file, False, init_cfg))
        backbone.init_weights()
        limit = {'half precision': 1e-2, 'bfloat16': 0.1}.get(name, 1e-5)
        assert difference(layout, file, backbone, False) < limit, name


def test_two_layouts_in_one_file_are_refused(tmp_path):
    source = randomise(SwinTransformerV2(ARCH, 4))
    for mixed in ({**source.state_dict(), **official(source)}, {**official(source), **DeepViT(VIT, 64).state_dict()}):
        with pytest.raises(InputError, match='are mixed in it'):
            SwinTransformerV2(ARCH, 4).load_checkpoint(mixed, 'mixed.pth')


def test_a_deepvit_checkpoint_is_refused_by_a_swin_backbone():
    with pytest.raises(InputError, match='a.pth: it is a DeepViT, but the config builds a SwinV2'):
        SwinTransformerV2(ARCH, 4).load_checkpoint(DeepViT(VIT, 64).state_dict(), 'a.pth')
