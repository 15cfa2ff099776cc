import pytest
import torch
from mmengine.model import BaseModel
from torch import nn

from mmvitscale.engine.optim import BF16OptimWrapper

pytestmark = pytest.mark.unit


class Detector(BaseModel):
    """A backbone of one linear layer, and a head that, like mmcv's operators, refuses bfloat16."""

    def __init__(self):
        super().__init__()
        self.backbone = Backbone()
        self.head = nn.Linear(4, 1)

    def forward(self, inputs, data_samples=None, mode='loss'):
        (features,) = self.backbone(inputs)
        return dict(loss=self.head(features).square().mean(), seen=features)


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.fails = False

    def forward(self, x):
        if self.fails:
            raise ValueError('no')
        self.dtype = (self.linear(x)).dtype
        return (self.linear(x),)


@pytest.mark.parametrize('backbone_only', [False, True])
def test_bfloat16_covers_the_model_or_the_backbone_only(backbone_only):
    model = Detector()
    wrapper = BF16OptimWrapper(torch.optim.SGD(model.parameters(), 0.1), backbone_only=backbone_only)
    before = model.head.weight.clone()
    with wrapper.optim_context(model):
        out = model(torch.randn(2, 4))
        assert torch.is_autocast_enabled('cpu') != backbone_only
    assert not torch.is_autocast_enabled('cpu')
    assert model.backbone.dtype == torch.bfloat16
    assert out['seen'].dtype == (torch.float32 if backbone_only else torch.bfloat16)
    wrapper.update_params(out['loss'])
    assert not torch.equal(before, model.head.weight) and model.backbone.linear.weight.grad is None
    model(torch.randn(2, 4))
    assert model.backbone.dtype == torch.float32  # nothing stays


def test_a_failing_pass_leaves_no_autocast_and_no_hooks():
    model = Detector()
    wrapper = BF16OptimWrapper(torch.optim.SGD(model.parameters(), 0.1), backbone_only=True)
    model.backbone.fails = True
    with pytest.raises(ValueError, match='^no$'), wrapper.optim_context(model):
        model(torch.randn(2, 4))
    assert not torch.is_autocast_enabled('cpu') and not model.backbone._forward_hooks


@pytest.mark.parametrize('form', [lambda x: x, lambda x: [x, x], lambda x: dict(a=x, b=(x, 3))])
def test_outputs_of_a_backbone_keep_their_form(form):
    class Other(Backbone):
        def forward(self, x):
            return form(self.linear(x))

    model = Detector()
    model.backbone = Other()
    wrapper = BF16OptimWrapper(torch.optim.SGD(model.parameters(), 0.1), backbone_only=True)
    with wrapper.optim_context(model):
        out = model.backbone(torch.randn(2, 4))
    assert type(out) is type(form(torch.ones(2)))
    tensors = [out] if isinstance(out, torch.Tensor) else out if isinstance(out, list) else [out['a'], out['b'][0]]
    assert all(tensor.dtype == torch.float32 and tensor.shape == (2, 4) for tensor in tensors)
