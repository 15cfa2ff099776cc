"""The same backbone as every known library would save it, from random parameters."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mmvitscale.checkpoints.metadata import STATE_DICT_KEY
from mmvitscale.models import DeepViT, SwinTransformerV2
from mmvitscale.profiling import reference_models
from tests.helpers.official_layout import official_state_dict
from tests.helpers.randomise import randomise

ARCH = dict(embed_dims=8, depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2))
VIT = dict(embed_dims=12, depth=3, re_attention=1, num_heads=3)
SIDE = 128  # maps of 32, 16, 8 and 4 tokens
IMAGE = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))


@dataclass
class File:
    """content: as a file of the library holds it. weights: a function that finds the dict of tensors in it. features: raw
    outputs of every stage (every block for a DeepViT) with IMAGE, from the library itself, with the windows of the file and
    with twice as large ones, or an image of twice the sides for a DeepViT. options: what a config must say for it."""

    content: dict
    weights: Callable[[dict], dict]
    features: Callable[[bool], list[Tensor]]
    options: dict


def _top(content):
    return content


def _model(content):
    return content['model']


def _state(content):
    return content['state_dict']


def _ours(larger: bool, source: SwinTransformerV2) -> list[Tensor]:
    twin = SwinTransformerV2(ARCH, 8 if larger else 4, 4, out_norm=False).eval()
    for name, parameter in twin.named_parameters():  # by hand: checkpoint loading is what is tested
        parameter.data.copy_(source.get_parameter(name).data)
    with torch.no_grad():
        return list(twin(IMAGE))


def own(wrap, find=_top, **options):

    def make():
        source = randomise(SwinTransformerV2(ARCH, 4))
        return File(wrap(source), find, lambda larger: _ours(larger, source), options)

    return make


def v1(source):
    """As mmvitscale 0.1.0 named it."""
    state = {key: value for key, value in source.state_dict().items() if key != STATE_DICT_KEY}
    return {**state, **{f'stages.{i}.reference_window': torch.tensor([4, 4]) for i in range(4)}}


def whole(weights, prefix='backbone.', other='decode_head.conv_seg.weight'):
    return {**{prefix + key: value for key, value in weights.items()}, other: torch.ones(3)}


def official(source):
    return official_state_dict(source, (4,) * 4, (4,) * 4)


def simmim(source):
    weights = {key: value for key, value in official(source).items() if not key.startswith('head.')}
    return dict(
        model={
            **{f'encoder.{key}': value for key, value in weights.items()},
            'encoder.mask_token': torch.ones(1, 1, 8),
            'decoder.0.weight': torch.ones(3),
        }
    )


def of_library(name, wrap=_top, find=_top, logged=False):

    def make():
        model, stages = reference_models.REFERENCE_MODELS[name](ARCH, SIDE, (4,) * 4, None)
        randomise(model)

        def features(larger):
            with torch.no_grad():
                if not larger:
                    return stages(IMAGE)
                if name == 'torchvision':  # which knows no pretrained windows; another library stands in for it
                    source = SwinTransformerV2(ARCH, 4, out_norm=False)
                    for key, value in _by_hand(model.state_dict()).items():
                        source.get_parameter(key).data.copy_(value)
                    return _ours(True, source)
                wider, wide_stages = reference_models.REFERENCE_MODELS[name](ARCH, SIDE, (8, 8, 8, 4), (4,) * 4)
                derived = ('relative_coords_table', 'relative_position_index', 'attn_mask')
                wider.load_state_dict(
                    {key: value for key, value in model.state_dict().items() if not key.endswith(derived)}, strict=False
                )
                return wide_stages(IMAGE)

        return File(wrap(model.state_dict()), find, features, {} if logged else dict(pretrained_window_sizes=4))

    return make


def _by_hand(weights):
    """torchvision's names to ours, written a second time."""
    names = {'attn.cpb_mlp.': 'attn.position_bias.mlp.', 'mlp.0.': 'mlp.fc1.', 'mlp.3.': 'mlp.fc2.'}
    out = {}
    for key, value in weights.items():
        parts = key.split('.')
        if key.startswith('features.0.'):
            out[f'patch_embed.{ {"0": "proj", "2": "norm"}[parts[2]] }.{parts[3]}'] = value
        elif key.startswith('features.') and int(parts[1]) % 2 == 0:
            out[f'stages.{int(parts[1]) // 2}.downsample.{".".join(parts[2:])}'] = value
        elif key.startswith('features.') and 'relative' not in key:
            rest = '.'.join(parts[3:])
            for theirs, ours in names.items():
                rest = rest.replace(theirs, ours) if rest.startswith(theirs) else rest
            start = f'stages.{int(parts[1]) // 2}.blocks.{parts[2]}.'
            if rest == 'attn.qkv.bias':
                out[start + 'attn.q_bias'], out[start + 'attn.v_bias'] = value[: len(value) // 3], value[-len(value) // 3 :]
            else:
                out[start + rest] = value
    return out


def deepvit(wrap, find=_top):

    def make():
        source = randomise(DeepViT(VIT, SIDE, out_indices=(0, 1)))

        def features(larger):
            twin = source
            if larger:
                twin = DeepViT(VIT, 2 * SIDE, out_indices=(0, 1))
                for name, parameter in source.state_dict().items():
                    if name not in ('pos_embed', STATE_DICT_KEY):
                        twin.state_dict()[name].copy_(parameter)
                grid = source.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (8, 8))
                grid = torch.nn.functional.interpolate(grid, size=(16, 16), mode='bicubic', align_corners=False)
                twin.pos_embed.data.copy_(torch.cat((source.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)), 1))
            with torch.no_grad():
                return list(twin.eval()(IMAGE.repeat(1, 1, 2, 2) if larger else IMAGE))

        return File(wrap(source), find, features, {})

    return make


def official_deepvit(source):
    weights = {key: value for key, value in source.state_dict().items() if key != STATE_DICT_KEY}
    return {**weights, 'head.weight': torch.ones(10, 12), 'head.bias': torch.ones(10)}


def classifier(weights):
    return dict(state_dict=whole(weights, other='head.fc.weight'))


LAYOUTS = {
    'ours, whole model': own(lambda source: dict(state_dict=whole(source.state_dict())), _state),
    'ours, backbone': own(lambda source: source.state_dict()),
    'ours, version 0.1.0': own(v1),
    'official': own(lambda source: dict(model=official(source)), _model),
    'SimMIM': own(simmim, _model),
    'timm': of_library('timm'),
    'Hugging Face': of_library('Hugging Face'),
    'Hugging Face, classifier': of_library('Hugging Face', lambda weights: whole(weights, 'swinv2.', 'classifier.weight')),
    'mmpretrain': of_library('mmpretrain', logged=True),
    'mmpretrain, classifier': of_library('mmpretrain', classifier, _state, logged=True),
    'mmdet around mmpretrain': of_library(
        'mmpretrain', lambda weights: dict(state_dict=whole(weights, other='rpn_head.rpn_conv.weight')), _state, logged=True
    ),
    # as timm names it when it returns features, and without what classifies
    'mmseg around timm': of_library(
        'timm',
        lambda weights: dict(
            state_dict=whole(
                {
                    key.replace('layers.', 'layers_', 1): value
                    for key, value in weights.items()
                    if key[:5] not in ('norm.', 'head.')
                },
                'backbone.timm_model.',
            )
        ),
        _state,
    ),
    'torchvision': of_library('torchvision', logged=True),
    'ours, DeepViT': deepvit(lambda source: source.state_dict()),
    'official DeepViT': deepvit(official_deepvit),
    'ours, whole DeepViT': deepvit(lambda source: dict(state_dict=whole(source.state_dict())), _state),
}


def build_cfg(layout: str, file: File, larger: bool, init_cfg: dict | None = None) -> dict:
    if 'DeepViT' in layout:
        return dict(
            type='mmvitscale.DeepViT', arch=VIT, img_size=2 * SIDE if larger else SIDE, out_indices=(0, 1), init_cfg=init_cfg
        )
    return dict(
        type='mmvitscale.SwinTransformerV2',
        arch=ARCH,
        window_size=8 if larger else 4,
        out_norm=False,
        init_cfg=init_cfg,
        **file.options,
    )


def difference(layout: str, file: File, backbone, larger: bool) -> float:
    """The largest difference of any output from the library's own, relative to the largest value."""
    image = IMAGE.repeat(1, 1, 2, 2) if larger and 'DeepViT' in layout else IMAGE
    with torch.no_grad():
        found = backbone.eval()(image)
    return max(
        ((out - expected).abs().max() / expected.abs().max()).item()
        for out, expected in zip(found, file.features(larger), strict=True)
    )
