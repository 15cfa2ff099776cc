import logging
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # for the helper modules beside the tests


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def quiet_stale_loggers(monkeypatch):
    """MMEngine's loggers outlive the test whose captured output they were opened on, and would print a traceback of
    their own wherever a later test makes them speak."""
    monkeypatch.setattr(logging, 'raiseExceptions', False)
