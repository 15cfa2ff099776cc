import pytest
import torch
from torch import nn

from mmvitscale.models.layers.mlp import MLP

pytestmark = pytest.mark.unit


def test_inference_and_training_agree_whatever_the_activation(monkeypatch):
    monkeypatch.setattr('mmvitscale.models.layers.mlp._CHUNK', 24)  # chunks of 3 rows
    module, x = MLP(4, 8), torch.randn(2, 5, 4)
    for act in (nn.GELU(), nn.GELU(approximate='tanh'), nn.ReLU(), nn.Identity()):
        module.act = act
        trained = module.fc2(act(module.fc1(x)))
        assert torch.allclose(module(x), trained)
        with torch.no_grad():
            assert torch.allclose(module(x), trained, atol=1e-6), act
