"""State dicts of backbones with weights that somebody has added: adapters, LoRA, parametrisations, subclasses."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from mmvitscale.checkpoints.loading import adapt_checkpoint
from mmvitscale.errors import InputError
from mmvitscale.models import DeepViT, SwinTransformerV2
from tests.helpers.randomise import randomise
from tests.models.layers.test_attachments import SWIN, VIT, LoRA, put

pytestmark = pytest.mark.unit

IMAGE = torch.randn(1, 3, 48, 64)


class SwinWithAdapter(SwinTransformerV2):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.adapter = nn.Linear(3, 3)


class ViTWithAdapter(DeepViT):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.adapter = nn.Linear(3, 3)


def adapter(model):
    model.add_module('adapter', nn.Linear(2, 2))


def in_a_block(model):
    model.transformer_blocks()[0].add_module('adapter', nn.Linear(2, 2))


def lora(model):
    for block in range(2):
        name = f'stages.0.blocks.{block}.attn' if hasattr(model, 'stages') else f'blocks.{block}.attn'
        for layer in ('qkv', 'proj'):
            put(model, f'{name}.{layer}', LoRA(model.get_submodule(f'{name}.{layer}')))


def weight_norm(model):
    parametrizations.weight_norm(model.transformer_blocks()[0].attn.qkv)


def pruned(model):
    prune.l1_unstructured(model.transformer_blocks()[0].mlp.fc1, 'weight', 0.3)


CHANGES = [adapter, in_a_block, lora, weight_norm, pruned]
BACKBONES = [(SwinTransformerV2, SWIN), (DeepViT, VIT)]


@pytest.mark.parametrize('change', CHANGES)
@pytest.mark.parametrize('kind, options', BACKBONES)
@pytest.mark.parametrize('strict', [True, False])
def test_a_backbone_with_added_weights_takes_its_own_state_dict(kind, options, change, strict):
    one, other = kind(**options).eval(), kind(**options).eval()
    for model in (one, other):
        randomise(model)
        change(model)
    for own, wanted in ((one, other), (nn.Sequential(one), nn.Sequential(other))):
        randomise(wanted)
        assert not torch.allclose(own(IMAGE)[-1], wanted(IMAGE)[-1])
        result = own.load_state_dict(copy.deepcopy(wanted.state_dict()), strict=strict)
        assert not result.missing_keys and not result.unexpected_keys
        for (name, mine), (_, theirs) in zip(own.state_dict().items(), wanted.state_dict().items(), strict=True):
            assert torch.equal(mine, theirs), name
        assert torch.equal(own(IMAGE)[-1], wanted(IMAGE)[-1])


@pytest.mark.parametrize('kind, plain, options', [(SwinWithAdapter, SwinTransformerV2, SWIN), (ViTWithAdapter, DeepViT, VIT)])
def test_pretrained_weights_leave_an_adapter_as_it_is(kind, plain, options):
    model, source = kind(**options).eval(), randomise(plain(**options)).eval()
    before = copy.deepcopy(model.adapter.state_dict())
    matched = model.load_checkpoint(dict(state_dict=source.state_dict()), 'a.pth')
    assert matched.missing == ['adapter.weight', 'adapter.bias']
    assert torch.equal(model(IMAGE)[-1], source(IMAGE)[-1])
    assert all(torch.equal(value, before[key]) for key, value in model.adapter.state_dict().items())
    saved = model.state_dict()
    saved['stages.0.blocks.0.attn.unknown' if kind is SwinWithAdapter else 'blocks.0.attn.unknown'] = torch.ones(1)
    with pytest.raises(InputError, match='unknown'):
        model.load_state_dict(saved)
    missing = {key: value for key, value in source.state_dict().items() if not key.endswith('attn.proj.bias')}
    with pytest.raises(InputError, match='attn.proj.bias'):
        model.load_state_dict(missing)


@pytest.mark.parametrize('kind, options', BACKBONES)
def test_pretrained_weights_go_into_the_layers_inside_lora(kind, options):
    model, source = kind(**options).eval(), randomise(kind(**options)).eval()
    lora(model)
    for name, parameter in model.named_parameters():
        if 'lora_B' in name:
            nn.init.zeros_(parameter)
    model.load_checkpoint(dict(state_dict=source.state_dict()), 'a.pth')
    assert torch.allclose(model(IMAGE)[-1], source(IMAGE)[-1], atol=1e-5)


def test_what_modules_save_beside_tensors_comes_back():
    class Counts(nn.Module):
        count = 0

        def get_extra_state(self):
            return dict(count=self.count)

        def set_extra_state(self, state):
            self.count = state['count']

    one, other = (SwinTransformerV2(**SWIN) for _ in range(2))
    for model in (one, other):
        model.add_module('counts', Counts())
    other.counts.count = 7
    one.load_state_dict(other.state_dict())
    assert one.counts.count == 7


class Model(nn.Module):
    """A backbone, and beside it layers of the names that adapters have."""

    def __init__(self, kind, options):
        super().__init__()
        self.backbone = kind(**options)
        self.neck = nn.Module()
        self.neck.base_layer = nn.Linear(3, 3)
        self.head = LoRA(nn.Linear(3, 3))


@pytest.mark.parametrize('kind, options', BACKBONES)
@pytest.mark.parametrize('strict', [True, False])
def test_checkpoints_of_models_with_adapters_and_averages_are_loaded(kind, options, strict):
    """Names beside the backbone stay as they are, and averages of weights go where the weights go."""
    source, model = (Model(kind, options) for _ in range(2))
    for own in (source, model):
        randomise(own)
        lora(own.backbone)
    saved = source.state_dict()
    average = {f'module.{key}': value + 1 if value.is_floating_point() else value for key, value in saved.items()}
    content = dict(state_dict=copy.deepcopy(saved), meta={}, ema_state_dict={'steps': torch.tensor(1), **average})
    adapt_checkpoint(model, content, 'a.pth', strict)
    assert not any(model.load_state_dict(content['state_dict'], strict=strict))
    for key, value in model.state_dict().items():
        assert torch.equal(value, saved[key]), key
    found = content['ema_state_dict']
    for key, value in average.items():
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize('kind, options', BACKBONES)
def test_averages_of_compiled_blocks_are_loaded(kind, options):
    model = Model(kind, options)
    for blocks in [stage.blocks for stage in model.backbone.stages] if kind is SwinTransformerV2 else [model.backbone.blocks]:
        blocks[0] = torch.compile(blocks[0], backend='eager')
    saved = model.state_dict()
    assert any('_orig_mod' in key for key in saved)
    content = dict(state_dict=saved, meta={}, ema_state_dict={f'module.{key}': value for key, value in saved.items()})
    adapt_checkpoint(model, content, 'a.pth', strict=True)
    assert set(content['ema_state_dict']) == {f'module.{key}' for key in saved}


@pytest.mark.parametrize(
    'kind, options, chosen',
    [
        (SwinTransformerV2, SWIN, 'lora_'),
        (SwinTransformerV2, SWIN, 'position_bias'),
        (SwinTransformerV2, SWIN, 'bias'),
        (DeepViT, VIT, 'lora_'),
        (DeepViT, VIT, 'reatten_matrix'),
        (DeepViT, VIT, 'qkv'),
    ],
)
def test_a_part_of_the_weights_is_left_to_pytorch(kind, options, chosen):
    """Adapters alone, as ``peft`` saves them, or one kind of layer."""
    model, other = (randomise(kind(**options)) for _ in range(2))
    for own in (model, other):
        lora(own)
    part = {key: value for key, value in other.state_dict().items() if chosen in key}
    before = copy.deepcopy(model.state_dict())
    result = model.load_state_dict(part, strict=False)
    assert not result.unexpected_keys and part
    for key, value in model.state_dict().items():
        assert torch.equal(value, part.get(key, before[key])), key


def test_a_plain_vit_with_parametrised_layers_takes_its_own_state_dict():
    options = dict(arch=dict(embed_dims=24, depth=2, re_attention=0, num_heads=4), img_size=64)
    model, other = (randomise(DeepViT(**options)) for _ in range(2))
    for own in (model, other):
        for block in own.blocks:
            parametrizations.weight_norm(block.attn.qkv)
        randomise(own)
    model.load_state_dict(other.state_dict())
    assert torch.equal(model.eval()(IMAGE)[-1], other.eval()(IMAGE)[-1])


def test_a_plain_vit_with_lora_is_found_in_a_file_of_the_backbone_alone():
    options = dict(VIT, arch={**VIT['arch'], 're_attention': 0})
    source, model = Model(DeepViT, options), Model(DeepViT, options)
    for own in (source, model):
        lora(own.backbone)
        randomise(own)
    content = dict(state_dict=source.backbone.state_dict(), meta={})
    adapt_checkpoint(model, content, 'a.pth')
    model.load_state_dict(content['state_dict'], strict=False)
    for key, value in source.backbone.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[key], value), key
