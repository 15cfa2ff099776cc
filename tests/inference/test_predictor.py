"""A model built for prediction is the one that was trained."""

import pytest

from mmvitscale.config.view import ConfigView
from mmvitscale.inference import build_model
from tests.helpers.loaded import load

pytestmark = pytest.mark.integration


def test_a_data_preprocessor_beside_the_model_is_used():
    """Where mmpretrain's configs have it; without it images would not be normalised."""
    cfg = load('swinv2_classifier_mini_96_w6')
    inside = build_model(cfg).data_preprocessor
    cfg.data_preprocessor = cfg.model.pop('data_preprocessor')
    beside = build_model(cfg).data_preprocessor
    assert beside._enable_normalize and beside.num_classes == 6
    assert beside.mean.equal(inside.mean) and beside.std.equal(inside.std)
    cfg.model.data_preprocessor = dict(num_classes=2)
    assert ConfigView(cfg).model.data_preprocessor.num_classes == 2  # the model's own has priority
    assert 'data_preprocessor' in cfg and cfg.model.data_preprocessor == dict(num_classes=2)
