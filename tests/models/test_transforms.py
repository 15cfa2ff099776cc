"""Backbones under ``torch.func``, FakeTensorMode, pickle and copy, in float64, and with batches of nothing."""

import copy
import io

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.func import functional_call, grad, jvp, vmap

from mmvitscale.errors import InputError
from mmvitscale.models import DeepViT, SwinTransformerV2
from mmvitscale.models.deepvit import re_attention
from mmvitscale.models.swin_v2 import attention
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.unit

SWIN = dict(arch=dict(embed_dims=32, depths=(2, 2), num_heads=(2, 4)), window_size=4, drop_path_rate=0.0)
VIT = dict(arch=dict(embed_dims=24, depth=3, re_attention=2, num_heads=4), img_size=64, drop_path_rate=0.0)
WINDOWED = dict(VIT, window_size=3, global_blocks=(2,))
MODELS = {'SwinV2': (SwinTransformerV2, SWIN), 'DeepViT': (DeepViT, VIT), 'DeepViT in windows': (DeepViT, WINDOWED)}
each_model = pytest.mark.parametrize('name', MODELS)


def built(name, **options):
    kind, own = MODELS[name]
    return randomise(kind(**own, **options)).eval()


def images(count=3):
    return torch.randn(count, 3, 40, 72, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    'name, kernel',
    [(name, kernel) for name in MODELS for kernel in (attention if name == 'SwinV2' else re_attention).KERNELS],
)
def test_per_sample_gradients_by_vmap_equal_a_loop(name, kernel):
    model, x = built(name, attention=kernel), images()
    parameters = dict(model.named_parameters())

    def loss(parameters, image):
        return sum(out.square().mean() for out in functional_call(model, parameters, (image[None],)))

    per_sample = vmap(grad(loss), (None, 0))(parameters, x)
    for i, image in enumerate(x):
        expected = torch.autograd.grad(loss(parameters, image), list(parameters.values()))
        for key, right in zip(parameters, expected):
            assert torch.allclose(per_sample[key][i], right, atol=1e-5 + 1e-3 * right.abs().max()), key
    assert torch.allclose(vmap(lambda image: model(image[None])[-1][0])(x), model(x)[-1], atol=1e-4)


@each_model
def test_forward_mode_derivatives_are_those_of_finite_differences(name):
    model, x = built(name).double(), images(1).double()
    direction = torch.randn_like(x)
    _, tangent = jvp(lambda image: model(image)[-1], (x,), (direction,))
    step = 1e-6
    difference = (model(x + step * direction)[-1] - model(x - step * direction)[-1]) / (2 * step)
    assert torch.allclose(tangent, difference, atol=1e-5) and tangent.abs().max() > 0.01


@each_model
def test_a_functional_call_takes_the_state_dict(name):
    model, other, x = built(name), built(name), images()
    with torch.no_grad():
        assert torch.allclose(functional_call(model, other.state_dict(), (x,))[-1], other(x)[-1], atol=1e-4)
        assert not torch.allclose(model(x)[-1], other(x)[-1], atol=1e-2)


def test_re_attention_in_training_is_refused_under_torch_func():
    model, x = built('DeepViT').train(), images()
    with pytest.raises(InputError, match=r'cannot update its running statistics; call eval\(\) first'):
        grad(lambda image: model(image)[-1].sum())(x)


@each_model
def test_second_derivatives_are_eagers_and_refused_elsewhere(name):
    model, x = built(name, attention='eager').double(), images(1).double().requires_grad_()

    def slope(image):
        (first,) = torch.autograd.grad(model(image)[-1].square().sum(), image, create_graph=True)
        return first

    direction = torch.randn_like(x)
    (second,) = torch.autograd.grad((slope(x) * direction).sum(), x)
    step = 1e-6
    with torch.no_grad():
        places = [x + step * direction, x - step * direction]
    difference = (slope(places[0].requires_grad_()) - slope(places[1].requires_grad_())) / (2 * step)
    assert torch.allclose(second, difference, atol=1e-4 * second.abs().max())


@pytest.mark.parametrize('name', ['SwinV2', 'DeepViT'])
@pytest.mark.parametrize('inputs', [True, False])
def test_second_derivatives_of_the_fast_kernels_are_refused(name, inputs):
    """Wherever they are asked for: silently they would be zero."""
    options = {} if name == 'SwinV2' else dict(arch={**VIT['arch'], 're_attention': 3})
    model = randomise(MODELS[name][0](**{**MODELS[name][1], **options}, attention='sequential')).eval()
    x = images(1).requires_grad_()
    (first,) = torch.autograd.grad(model(x)[-1].square().sum(), x, create_graph=True)
    with pytest.raises(InputError, match='second derivatives found'):
        if inputs:
            torch.autograd.grad(first.square().sum(), x)
        else:
            first.square().sum().backward()


@each_model
def test_fake_tensors_are_computed_with_and_leave_nothing_behind(name):
    kind, options = MODELS[name]
    real, x = built(name), torch.randn(2, 3, 56, 88)  # a size that nothing is cached for
    with FakeTensorMode():
        model = kind(**options)
        for training in (True, False):
            with torch.set_grad_enabled(training):
                outs = model.train(training)(torch.randn(2, 3, 56, 88))
            assert all(type(out) is FakeTensor for out in outs)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        real(torch.randn(2, 3, 56, 88))
    with torch.no_grad():
        outs = real(x)
    assert [type(out) for out in outs] == [torch.Tensor] * len(outs)
    assert torch.allclose(outs[-1], real(x)[-1].detach(), atol=1e-4)


@each_model
def test_copies_and_files_are_of_weights_alone(name):
    model, x = built(name), images()
    before = len(torch_bytes(model))
    if name != 'SwinV2':
        model.gradient_scale = lambda: 3.0  # of a training loop
    with torch.no_grad():
        expected = model(x)
    assert len(torch_bytes(model)) <= before + 100
    duplicate = copy.deepcopy(model)
    loaded = torch.load(io.BytesIO(torch_bytes(model)), weights_only=False)
    for other in (duplicate, loaded):
        with torch.no_grad():
            assert torch.equal(other(x)[-1], expected[-1])
        assert name == 'SwinV2' or other.gradient_scale() == 1.0


def torch_bytes(model):
    file = io.BytesIO()
    torch.save(model, file)
    return file.getvalue()


@each_model
@pytest.mark.parametrize('training', [False, True])
def test_a_batch_of_no_image_gives_outputs_of_no_image(name, training):
    model = built(name).train(training)
    statistics = {key: value.clone() for key, value in model.named_buffers() if value.is_floating_point()}
    outs = model(images(0))
    assert [out.shape[1:] for out in outs] == [out.shape[1:] for out in built(name)(images(1))]
    assert all(len(out) == 0 for out in outs)
    sum(out.sum() for out in outs).backward()
    assert all(torch.equal(value, dict(model.named_buffers())[key]) for key, value in statistics.items())


def test_a_float64_model_has_a_float64_position_embedding():
    model, image = built('DeepViT').double(), images(1).double()
    found = model._positions((5, 7), None)
    weights = torch.nn.functional.interpolate(
        model.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (4, 4)), size=(5, 7), mode='bicubic'
    )
    assert found.dtype == torch.float64
    assert (found[:, 1:] - weights.flatten(2).transpose(1, 2)).abs().max() < 1e-12
    assert model(image)[0].dtype == torch.float64
