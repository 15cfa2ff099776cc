"""Packages that an import would bring, left out where the config does not need them."""

import sys

import pytest

from mmvitscale.utils import unneeded_imports

pytestmark = pytest.mark.unit

SEGMENTOR = dict(default_scope='mmseg', model=dict(type='EncoderDecoder', decode_head=dict(type='UPerHead')))


@pytest.fixture
def calls(monkeypatch):
    """(module, what it is imported without) of each import."""
    found = []
    monkeypatch.setattr(unneeded_imports, '_import_without', lambda unneeded, module: found.append((module, unneeded)))
    return found


def changed(**parts):
    return {**SEGMENTOR, **parts}


@pytest.mark.parametrize(
    'cfg, unneeded',
    [
        (None, ['deepspeed', 'transformers']),
        (SEGMENTOR, ['deepspeed', 'transformers']),
        (changed(strategy=dict(type='mmvitscale.DeepSpeedZeroStrategy')), ['transformers']),
        (changed(optim_wrapper=dict(optimizer=dict(type='FusedAdam'))), ['transformers']),
        (changed(optim_wrapper=dict(optimizer=dict(type='Adafactor'))), ['deepspeed']),
    ],
)
def test_mmengine_comes_without_what_no_training_or_this_one_needs(calls, cfg, unneeded):
    unneeded_imports.import_mmengine(cfg)
    assert calls == [('mmengine.runner', unneeded)]


@pytest.mark.parametrize(
    'cfg, unneeded',
    [
        (SEGMENTOR, ['mmdet', 'mmpretrain']),
        (changed(default_scope='mmdet'), None),
        (changed(model=dict(type='EncoderDecoder', decode_head=dict(type='Mask2FormerHead'))), ['mmpretrain']),
        (changed(model=dict(type='EncoderDecoder', decode_head=dict(type='MaskFormerHead'))), ['mmpretrain']),
        (changed(model=dict(type='EncoderDecoder', neck=dict(type='mmdet.FPN'))), ['mmpretrain']),
        (changed(model=dict(type='EncoderDecoder', backbone=dict(type='mmpretrain.ConvNeXt'))), ['mmdet']),
        (changed(custom_imports=dict(imports=['mine'])), None),
        (changed(model=dict(type='EncoderDecoder', decode_head=dict(type='mine.Head'))), None),
    ],
)
def test_segmentors_come_without_packages_that_the_config_does_not_name(calls, cfg, unneeded):
    unneeded_imports.import_segmentors(cfg)
    assert calls == ([] if unneeded is None else [('mmseg.models', unneeded), ('mmseg.datasets', unneeded)])


def test_with_imports_of_a_config_of_ones_own_nothing_is_left_out(calls):
    unneeded_imports.import_mmengine(changed(custom_imports=dict(imports=['mine'])))
    assert not calls


def test_what_is_left_out_counts_as_missing_for_that_import_alone(monkeypatch, tmp_path):
    (tmp_path / 'heavy_part.py').write_text('')
    (tmp_path / 'its_user.py').write_text('try:\n    import heavy_part\nexcept ImportError:\n    heavy_part = None\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ('its_user', 'heavy_part'):
        monkeypatch.delitem(sys.modules, name, raising=False)
    unneeded_imports._import_without(['heavy_part'], 'its_user')
    assert sys.modules['its_user'].heavy_part is None and 'heavy_part' not in sys.modules
    import heavy_part

    assert heavy_part.__file__

    # What is imported already stays, and is used.
    monkeypatch.delitem(sys.modules, 'its_user')
    unneeded_imports._import_without(['heavy_part'], 'its_user')
    assert sys.modules['its_user'].heavy_part is heavy_part is sys.modules['heavy_part']


def test_a_package_that_is_not_there_is_left_to_who_needs_it(monkeypatch):
    unneeded_imports._import_without(['sys_of_nobody'], 'nobody_has_this')
    assert 'sys_of_nobody' not in sys.modules and 'nobody_has_this' not in sys.modules
