import copy

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper

from mmvitscale.analysis.recorder import recorded_attention
from mmvitscale.analysis.similarity import cross_layer_similarity
from mmvitscale.errors import InputError
from mmvitscale.models import DeepViT
from mmvitscale.models.deepvit import re_attention
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.unit

VIT = dict(embed_dims=12, depth=4, re_attention=2, num_heads=3)  # plain and mixed neighbours
IMAGE = torch.rand(2, 3, 48, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def make(**options):
    torch.manual_seed(0)
    model = randomise(DeepViT(VIT, 64, drop_path_rate=0.0, **options)).double().train()
    for name, parameter in model.named_parameters():
        if 'qkv.weight' in name:
            parameter.data.mul_(3)  # maps far from uniform
    return model


def of_maps(model):
    """The mean over neighbours from maps that are all held, in a graph."""
    maps = []
    hooks = [
        block.attn.register_forward_pre_hook(lambda module, inputs: maps.append(module.attention_maps(*inputs)))
        for block in model.blocks
    ]
    out = model(IMAGE)
    for hook in hooks:
        hook.remove()
    columns = [torch.nn.functional.normalize(m, dim=-2) for m in maps]
    return out, torch.stack([(a * b).sum(-2).mean() for a, b in zip(columns, columns[1:])]).mean()


@pytest.mark.parametrize('attention', ['sequential', 'eager'])
@pytest.mark.parametrize('with_cp', [False, True])
def test_loss_and_gradients_equal_those_from_stored_maps(attention, with_cp, monkeypatch):
    monkeypatch.setitem(re_attention._CHUNK, 'cpu', 2 * 3 * 13 * 5)  # five rows at a time of thirteen
    monkeypatch.setitem(re_attention._ROWS, 'cpu', 1)
    reference = make(attention='eager')
    out, similarity = of_maps(reference)
    (out[0].sin().sum() + 0.3 * similarity).backward()

    model = make(attention=attention, with_cp=with_cp, similarity_loss_weight=0.3)
    found = model(IMAGE)
    assert torch.allclose(found[0], out[0])
    assert MessageHub.get_current_instance().get_scalar('train/similarity').current() == pytest.approx(similarity.item())
    found[0].sin().sum().backward()
    for (name, expected), own in zip(reference.named_parameters(), model.parameters()):
        assert torch.allclose(own.grad, expected.grad, rtol=1e-6, atol=1e-9 * expected.grad.abs().max().item() + 1e-12), name
    plain = make(attention=attention)
    plain(IMAGE)
    for (name, buffer), own in zip(plain.named_buffers(), model.buffers(), strict=True):
        assert torch.allclose(own, buffer), name  # statistics move once, with the regulariser as without
    assert all(norm.num_batches_tracked == 1 for norm in model.modules() if isinstance(norm, torch.nn.BatchNorm2d))


def test_the_loss_equals_the_cross_layer_similarity_metric():
    model = make(similarity_loss_weight=0.1)
    with recorded_attention(model.eval()) as passes, torch.no_grad():
        model(IMAGE)
    expected = cross_layer_similarity([block.groups for block in passes[0]]).diagonal(offset=1).mean()
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.train(False)
    model.training = True  # the backbone trains, its statistics stand
    model(IMAGE)
    logged = MessageHub.get_current_instance().get_scalar('train/similarity').current()
    assert logged == pytest.approx(expected.item(), rel=1e-5)


def test_similarity_is_not_computed_without_a_weight_or_gradients(monkeypatch):
    from mmvitscale.models.deepvit import backbone

    monkeypatch.setattr(backbone, 'neighbour_similarity', None)  # would not be callable
    make()(IMAGE)
    make(similarity_loss_weight=0.1).eval()(IMAGE)
    with torch.no_grad():
        make(similarity_loss_weight=0.1)(IMAGE)


def gradients(weight, accumulate):
    """Of a step of two batches, through MMEngine's wrapper and our runner's scale."""
    from mmvitscale.engine.runner import Runner

    model = make(similarity_loss_weight=weight)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0), accumulative_counts=accumulate)
    wrapper.initialize_count_status(model, 0, accumulate)
    runner = type('Loop', (), dict(optim_wrapper=wrapper))()
    model.gradient_scale = lambda: Runner._gradient_scale(runner)
    before = copy.deepcopy(model.state_dict())
    for _ in range(accumulate):
        wrapper.update_params(0 * model(IMAGE)[0].sum())
    return {name: before[name] - parameter for name, parameter in model.named_parameters()}


def test_accumulated_gradients_are_scaled():
    """The same batch twice at half the loss is one step: the regulariser is halved with the loss."""
    once, twice = gradients(1.0, 1), gradients(1.0, 2)
    moved = [name for name, change in once.items() if change.abs().max() > 1e-12]
    assert any('qkv' in name for name in moved)
    for name in moved:
        assert torch.allclose(once[name], twice[name], rtol=1e-5, atol=1e-9), name


def test_a_similarity_loss_with_windows_is_refused():
    with pytest.raises(InputError, match='similarity_loss_weight 0.1 found with 4 blocks and window_size .2, 2.'):
        DeepViT(VIT, 64, window_size=2, similarity_loss_weight=0.1)


def test_no_maps_are_kept_for_the_backward_pass():
    model = DeepViT(dict(VIT, depth=2), 256, drop_path_rate=0.0, similarity_loss_weight=0.1).train()
    kept = []
    look = lambda tensor: (kept.append(tensor.shape), tensor)[1]  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor):
        (out,) = model(torch.rand(1, 3, 256, 256))
    tokens = 1 + 16 * 16
    assert kept and not [shape for shape in kept if shape and shape[-1] == tokens and shape.numel() > tokens * 12]
    out.sum().backward()
