"""Adapters, pruning, parametrisations and hooks on layers whose weights are read otherwise."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from mmvitscale.models import DeepViT, SwinTransformerV2
from mmvitscale.utils.choices import STATISTICS
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.unit

SWIN = dict(arch=dict(embed_dims=16, depths=(2, 2), num_heads=(2, 4)), window_size=4, drop_path_rate=0.0)
VIT = dict(arch=dict(embed_dims=24, depth=2, re_attention=2, num_heads=4), img_size=64, drop_path_rate=0.0)
IMAGES = torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(1))
# Layer -> whose weights would be read without calling it.
LAYERS = [
    (SwinTransformerV2, SWIN, 'patch_embed.proj'),
    (SwinTransformerV2, SWIN, 'stages.1.blocks.0.attn.qkv'),
    (SwinTransformerV2, SWIN, 'stages.0.blocks.1.attn.proj'),
    (SwinTransformerV2, SWIN, 'stages.0.blocks.0.attn.position_bias.mlp.2'),
    (SwinTransformerV2, SWIN, 'stages.0.blocks.0.mlp.fc1'),
    (DeepViT, VIT, 'patch_embed.proj'),
    (DeepViT, VIT, 'blocks.0.attn.qkv'),
    (DeepViT, VIT, 'blocks.1.attn.reatten_matrix'),
]
each_layer = pytest.mark.parametrize('kind, options, name', LAYERS, ids=[f'{kind.__name__}-{name}' for kind, _, name in LAYERS])


class LoRA(nn.Module):
    """As ``peft`` puts it in the place of a layer: base_layer(x) + B A x, for linear layers and convolutions."""

    def __init__(self, layer, rank=2):
        super().__init__()
        self.base_layer = layer.requires_grad_(False)
        if isinstance(layer, nn.Conv2d):
            self.lora_A = nn.Conv2d(layer.in_channels, rank, layer.kernel_size, layer.stride, bias=False)
            self.lora_B = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        else:
            self.lora_A = nn.Linear(layer.in_features, rank, bias=False)
            self.lora_B = nn.Linear(rank, layer.out_features, bias=False)
        nn.init.normal_(self.lora_B.weight, std=0.3)

    def forward(self, x):
        return self.base_layer(x) + self.lora_B(self.lora_A(x))

    @torch.no_grad()
    def merged(self):
        layer = copy.deepcopy(self.base_layer)
        layer.weight += (self.lora_B.weight.flatten(1) @ self.lora_A.weight.flatten(1)).view_as(layer.weight)
        return layer


def put(model, name, layer):
    parent, _, leaf = name.rpartition('.')
    setattr(model.get_submodule(parent), leaf, layer)


def outputs(model, grad=False):
    with torch.set_grad_enabled(grad):
        return [out.detach() for out in model(IMAGES)]


def assert_close(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-4, rtol=1e-4), (one - other).abs().max()


@each_layer
@pytest.mark.parametrize('training', [False, True])
def test_lora_computes_what_merged_weights_do_and_trains(kind, options, name, training):
    model = randomise(kind(**options)).train(training)
    before = outputs(copy.deepcopy(model))
    lora = LoRA(model.get_submodule(name))
    merged = copy.deepcopy(model)
    put(merged, name, lora.merged())
    put(model, name, lora)
    for grad in (False, True):
        ours, theirs = outputs(copy.deepcopy(model), grad), outputs(copy.deepcopy(merged), grad)
        assert_close(ours, theirs)
        assert not torch.allclose(ours[-1], before[-1], atol=1e-4)
    sum(out.square().sum() for out in model(IMAGES)).backward()
    assert lora.lora_A.weight.grad.abs().sum() > 0 and lora.base_layer.weight.grad is None
    with torch.no_grad():  # an adapter that has been trained on; nothing of before is cached
        before = model.eval()(IMAGES)[-1]
        lora.lora_B.weight *= 3
        assert not torch.allclose(model(IMAGES)[-1], before, atol=1e-4)


@each_layer
def test_pruned_and_parametrised_weights_hold(kind, options, name):
    model = randomise(kind(**options)).eval()
    masked = copy.deepcopy(model)
    layer = model.get_submodule(name)
    prune.random_unstructured(layer, 'weight', 0.5)
    with torch.no_grad():
        masked.get_submodule(name).weight *= layer.weight_mask
    expected = outputs(masked)
    for grad in (False, True):
        assert_close(outputs(model, grad), expected)
    sum(out.square().sum() for out in model(IMAGES)).backward()
    grad = layer.weight_orig.grad
    assert grad[layer.weight_mask == 1].any() and not grad[layer.weight_mask == 0].any()
    with torch.no_grad():  # weights that a step has changed are the ones that run
        layer.weight_orig *= 2
        masked.get_submodule(name).weight *= 2
    assert_close(outputs(model), outputs(masked))

    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    model, twice = (copy.deepcopy(masked) for _ in range(2))
    parametrize.register_parametrization(model.get_submodule(name), 'weight', Doubled())
    with torch.no_grad():
        twice.get_submodule(name).weight *= 2
    assert_close(outputs(model), outputs(twice))


@pytest.mark.parametrize('kind, options', [(SwinTransformerV2, SWIN), (DeepViT, VIT)])
def test_hooks_see_the_same_with_and_without_gradients(kind, options):
    model = randomise(kind(**options)).eval()
    expected, seen = outputs(model), []
    for module in model.modules():  # outputs are kept as they come: who overwrote them would be seen
        module.register_forward_hook(lambda module, inputs, output: seen.append((module, output)))
    runs = []
    for grad in (False, True):
        seen.clear()
        assert_close(outputs(model, grad), expected)
        runs.append([(module, out) for module, out in seen if isinstance(out, torch.Tensor)])
    assert len(runs[0]) == len(runs[1])
    called = {module for module, _ in runs[0]}
    layers = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.GELU, nn.BatchNorm2d, nn.ReLU)
    assert not [name for name, module in model.named_modules() if isinstance(module, layers) and module not in called]
    for (first, without), (second, with_grad) in zip(*runs):
        assert first is second and torch.allclose(without, with_grad.detach(), atol=1e-4)


@pytest.mark.parametrize('statistics', STATISTICS)
@pytest.mark.parametrize('training', [False, True])
def test_a_hook_on_the_norm_changes_nothing_and_one_that_scales_does(statistics, training):
    model = randomise(DeepViT(**VIT, reatten_statistics=statistics)).train(training)
    plain, attended = copy.deepcopy(model), copy.deepcopy(model)
    expected = outputs(plain)
    norms = [block.attn.var_norm for block in attended.blocks]
    norms[0].register_forward_hook(lambda module, inputs, output: None)
    assert_close(outputs(attended), expected)
    assert_close(list(attended.buffers()), list(plain.buffers()))
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        scaled.blocks[0].attn.var_norm.weight *= 3
        scaled.blocks[0].attn.var_norm.bias *= 3
    model.blocks[0].attn.var_norm.register_forward_hook(lambda module, inputs, output: 3 * output)
    assert_close(outputs(model), outputs(scaled))


@pytest.mark.parametrize('statistics', ['token_invariant', 'running'])
@pytest.mark.parametrize('stem', ['linear', 'conv'])
def test_batch_norms_fused_into_their_convolutions_change_nothing(statistics, stem):
    """mmcv's ``fuse_conv_bn`` takes var_norm for the norm of the 1x1 convolution before it, which it is."""
    from mmcv.cnn.utils import fuse_conv_bn

    model = randomise(DeepViT({**VIT['arch'], 'stem': stem}, 64, drop_path_rate=0.0, reatten_statistics=statistics)).train()
    with torch.no_grad():
        model(IMAGES)  # running statistics of their own
    expected = outputs(model.eval())
    fused = fuse_conv_bn(copy.deepcopy(model))
    assert isinstance(fused.blocks[0].attn.var_norm, nn.Identity)
    for grad in (False, True):
        assert_close(outputs(fused, grad), expected)


def test_layers_in_the_place_of_the_norm_are_refused_where_nothing_can_be_computed():
    from mmvitscale.errors import InputError

    model = DeepViT(**VIT).eval()
    model.blocks[0].attn.var_norm = nn.GroupNorm(2, 4)
    with pytest.raises(InputError, match='found GroupNorm as its var_norm'):
        model(IMAGES)
    for statistics in ('image', 'scaled'):
        model = DeepViT(**VIT, reatten_statistics=statistics).eval()
        model.blocks[0].attn.var_norm = nn.Identity()
        with pytest.raises(InputError, match=f"'{statistics}' found with a var_norm that was fused"):
            model(IMAGES)


def test_a_convolution_with_a_hook_is_right_for_one_column_in_bfloat16():
    model = randomise(SwinTransformerV2(**SWIN)).eval()
    image = torch.randn(1, 3, 64, 4)
    expected = model.patch_embed(image)
    model.patch_embed.proj.register_forward_hook(lambda module, inputs, output: None)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.allclose(model.patch_embed(image).float(), expected, atol=0.1)


@pytest.mark.parametrize('statistics', STATISTICS)
def test_gradients_are_the_same_with_something_attached_to_norm_and_matrix(statistics):
    """Also in training, whose forward pass changes the running statistics that the norm was looked at with."""
    plain = randomise(DeepViT(**VIT, reatten_statistics=statistics)).train()
    hooked = copy.deepcopy(plain)
    for block in hooked.blocks:
        for layer in (block.attn.var_norm, block.attn.reatten_matrix):
            layer.register_forward_hook(lambda module, inputs, output: None)
    for model in (plain, hooked):
        for _ in range(2):  # steps
            sum(out.square().mean() for out in model(IMAGES)).backward()
    for (name, one), (_, other) in zip(plain.named_parameters(), hooked.named_parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-4 * (1 + one.grad.abs().max())), name
    for one, other in zip(plain.buffers(), hooked.buffers(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_quantized_layers_run():
    model = randomise(SwinTransformerV2(**SWIN)).eval()
    expected = outputs(model)
    for grad in (False, True):
        found = outputs(torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}), grad)
        assert (found[0] - expected[0]).abs().mean() < 0.2 * expected[0].abs().mean()


@pytest.mark.parametrize('kind, options', [(SwinTransformerV2, SWIN), (DeepViT, VIT)])
def test_replicas_of_data_parallel_run(kind, options):
    """They hold their weights as plain attributes, and no parameter."""

    def replica(module):
        copied = module._replicate_for_data_parallel()
        for name, child in module._modules.items():
            if child is not None:
                copied._modules[name] = replica(child)
        copied._parameters = dict.fromkeys(module._parameters)
        for name, parameter in module._parameters.items():
            if parameter is not None:
                copied._parameters.pop(name)
                setattr(copied, name, parameter.detach().clone())
        return copied

    model = randomise(kind(**options)).eval()
    for grad in (False, True):
        assert_close(outputs(replica(model), grad), outputs(model, grad))
