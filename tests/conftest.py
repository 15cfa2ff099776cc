import logging
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # for the helper modules beside the tests

from mmvitscale.torchvision_shim import make_torchvision_importable  # noqa: E402

make_torchvision_importable()  # before any test imports what would import them


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope='session', autouse=True)
def plain_configs():
    """MMEngine brings configs that it logs or saves into shape with yapf: most of the time of a short training."""
    from yapf.yapflib import yapf_api
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yapf_api, 'FormatCode', lambda text, *args, **kwargs: (text, False))
        yield


@pytest.fixture(autouse=True)
def quiet_stale_loggers(monkeypatch):
    """MMEngine's loggers outlive the test whose captured output they were opened on, and would print a traceback of
    their own wherever a later test makes them speak."""
    monkeypatch.setattr(logging, 'raiseExceptions', False)


@pytest.fixture
def told(monkeypatch):
    """The lines that backbones log while weights are loaded."""
    from mmvitscale.models.backbones import backbone, swin_v2
    lines = []
    for module in (backbone, swin_v2):
        monkeypatch.setattr(module, 'print_log', lambda text, *args, **kwargs: lines.append(text))
    return lines
