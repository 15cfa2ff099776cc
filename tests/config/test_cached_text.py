"""The text of a config, formatted once."""

import copy
import pickle

import pytest
from mmengine.config import Config, ConfigDict
from yapf.yapflib import yapf_api

from mmvitscale.config.cached_text import CachedTextConfig, with_cached_text

pytestmark = pytest.mark.unit


@pytest.fixture
def formatted(monkeypatch):
    """What was formatted, one entry for each time."""
    texts = []
    monkeypatch.setattr(yapf_api, 'FormatCode', lambda text, *args, **kwargs: (texts.append(text) or text, False))
    return texts


def test_a_text_is_formatted_when_the_config_has_changed_and_else_not(formatted):
    plain = Config(dict(model=dict(type='A', layers=[1, 2]), names=('a', 'b')))
    cfg = with_cached_text(plain)
    assert cfg.pretty_text == plain.pretty_text and len(formatted) == 2
    assert copy.deepcopy(cfg).pretty_text == cfg.pretty_text and len(formatted) == 2
    cfg.model.layers[0] = 3
    assert 'layers=[\n        3,' in cfg.pretty_text and len(formatted) == 3
    cfg.merge_from_dict({'model.type': 'B'})
    assert "'B'" in cfg.pretty_text and len(formatted) == 4


def test_it_is_a_config_as_any_other():
    plain = Config(dict(model=dict(type='A')), cfg_text='# a', filename='/somewhere/a.py')
    cfg = with_cached_text(plain)
    assert isinstance(cfg, CachedTextConfig) and cfg._cfg_dict is plain._cfg_dict and cfg.filename == plain.filename
    again = pickle.loads(pickle.dumps(cfg))
    assert again.pretty_text == cfg.pretty_text == plain.pretty_text
    assert with_cached_text(cfg) is cfg
    content = ConfigDict(a=1)
    assert with_cached_text(content) is content
