import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmvitscale.errors import InputError
from mmvitscale.models import SwinTransformerV2
from mmvitscale.models.necks import GlobalAttention

pytestmark = pytest.mark.unit


class Segmentor(nn.Module):
    def __init__(self):
        super().__init__()
        arch = dict(embed_dims=8, depths=(1, 2), num_heads=(1, 2))
        self.backbone = SwinTransformerV2(arch, window_size=4, frozen_stages=0)
        self.decode_head = nn.Sequential(nn.Conv2d(16, 4, 1), nn.BatchNorm2d(4))


def build(model, **paramwise_cfg):
    return build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.5),
            constructor='mmvitscale.LayerDecayOptimWrapperConstructor',
            paramwise_cfg=paramwise_cfg,
        ),
    )


def settings(model, wrapper):
    """Parameter name -> (learning rate, weight decay)."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: (group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
    }


def test_learning_rates_and_weight_decays_follow_layer_depth():
    model = Segmentor()
    found = settings(model, build(model, layer_decay_rate=0.1))
    assert set(found) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any(name.startswith('backbone.patch_embed') for name in found)  # frozen
    # depths: patch embedding 0, blocks 1 to 3, the rest 4
    expected = {
        'backbone.stages.0.blocks.0.attn.qkv.weight': (1e-3, 0.5),
        'backbone.stages.0.blocks.0.attn.q_bias': (1e-3, 0.0),
        'backbone.stages.0.blocks.0.attn.logit_scale': (1e-3, 0.0),
        'backbone.stages.0.blocks.0.attn.position_bias.mlp.2.weight': (1e-3, 0.0),
        'backbone.stages.1.downsample.reduction.weight': (1e-3, 0.5),
        'backbone.stages.1.blocks.0.mlp.fc1.weight': (1e-2, 0.5),
        'backbone.stages.1.blocks.1.norm1.weight': (1e-1, 0.0),
        'backbone.out_norms.1.weight': (1.0, 0.0),
        'decode_head.0.weight': (1.0, 0.5),
        'decode_head.0.bias': (1.0, 0.0),
        'decode_head.1.weight': (1.0, 0.0),
    }
    for name, pair in expected.items():
        assert found[name] == pytest.approx(pair), name


def test_custom_keys_multiply_and_the_longest_wins():
    model = Segmentor()
    found = settings(
        model, build(model, custom_keys={'backbone': dict(lr_mult=0.1), 'backbone.stages.1': dict(lr_mult=0.5, decay_mult=0.2)})
    )
    assert found['backbone.stages.0.blocks.0.attn.qkv.weight'] == pytest.approx((0.1, 0.5))
    assert found['backbone.stages.1.blocks.0.attn.qkv.weight'] == pytest.approx((0.5, 0.1))
    assert found['decode_head.0.weight'] == pytest.approx((1.0, 0.5))


def test_custom_keys_that_match_no_parameter_are_refused():
    with pytest.raises(InputError, match=r"\['bakcbone'\] match no parameter.*\['backbone', 'decode_head'\]"):
        build(Segmentor(), custom_keys={'bakcbone': dict(lr_mult=0.1)})


def test_unknown_paramwise_options_are_refused():
    with pytest.raises(InputError, match=r"\['layer_decay'\].*layer_decay_rate"):
        build(Segmentor(), layer_decay=0.9)
    with pytest.raises(InputError, match=r"\['lr'\].*lr_mult"):
        build(Segmentor(), custom_keys={'backbone': dict(lr=0.9)})


def test_layer_decay_is_refused_for_models_without_layer_depths():
    model = nn.Sequential(nn.Linear(2, 2))
    assert settings(model, build(model)) == {'0.weight': (1.0, 0.5), '0.bias': (1.0, 0.0)}
    with pytest.raises(InputError, match='no part of Sequential says how deep'):
        build(model, layer_decay_rate=0.9)


def test_mixed_precision_on_a_cpu_trains_in_bfloat16():
    model = nn.Linear(4, 4)
    wrapper = build_optim_wrapper(model, dict(type='mmvitscale.BF16OptimWrapper', optimizer=dict(type='SGD', lr=1.0)))
    before = model.weight.clone()
    with wrapper.optim_context(model):
        out = model(torch.ones(1, 4))
    assert out.dtype == torch.bfloat16
    wrapper.update_params(out.float().sum())
    assert not torch.equal(model.weight, before) and model.weight.dtype == torch.float32


def test_attention_in_necks_is_exempt_from_decay_as_in_the_backbone():
    model = Segmentor()
    model.neck = GlobalAttention(16, 2, 4)
    found = settings(model, build(model))
    for name, decay in (
        ('attn.logit_scale', 0.0),
        ('attn.position_bias.mlp.2.weight', 0.0),
        ('attn.qkv.weight', 0.5),
        ('norm1.weight', 0.0),
        ('mlp.fc1.weight', 0.5),
    ):
        assert found[f'neck.block.{name}'] == (1.0, decay), name


def built_with(model, optimizer, **paramwise_cfg):
    return build_optim_wrapper(
        model,
        dict(optimizer=optimizer, constructor='mmvitscale.LayerDecayOptimWrapperConstructor', paramwise_cfg=paramwise_cfg),
    )


def test_an_optimizer_without_a_learning_rate_in_the_config_takes_its_own():
    model = Segmentor()
    wrapper = built_with(model, dict(type='Adadelta'), layer_decay_rate=0.5)
    rates = {name: rate for name, (rate, _) in settings(model, wrapper).items()}
    assert rates['decode_head.0.weight'] == 1.0 and rates['backbone.stages.1.blocks.1.attn.qkv.weight'] == 0.5
    own = built_with(model, dict(type=FindsItsOwn))
    assert all('lr' not in group for group in own.optimizer.param_groups)
    with pytest.raises(InputError, match='FindsItsOwn has no lr in the config and none of its own'):
        built_with(model, dict(type=FindsItsOwn), layer_decay_rate=0.5)


class FindsItsOwn(torch.optim.Optimizer):
    def __init__(self, params, weight_decay=0.0):
        super().__init__(params, dict(weight_decay=weight_decay))


def test_a_model_that_is_frozen_entirely_is_refused():
    model = Segmentor()
    model.requires_grad_(False)
    with pytest.raises(InputError, match='no parameter of Segmentor is trained: all are frozen'):
        built_with(model, dict(type='SGD', lr=1.0))
