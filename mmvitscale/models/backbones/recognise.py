"""Weights under our names -> which backbone has them. For messages, and for files that come without a config."""

import re

from ...checkpoints.convert import State
from .variants import DEEPVIT, SWIN_V2


def describe_weights(weights: State) -> str:
    """``SwinV2-tiny (96 channels, depths 2,2,6,2, heads 3,6,12,24)``, as far as damaged weights allow."""
    arch = sizes_of(weights)
    if 'depth' in arch:
        sizes = {key: arch[key] for key in ('embed_dims', 'depth', 're_attention')}
        name = DEEPVIT.name_of({**sizes, 'stem': arch['stem']})
        mixing = f'{arch["re_attention"]} with Re-attention'
        return f'{name or "DeepViT"} ({arch["embed_dims"] or "?"} channels, {arch["depth"]} blocks, {mixing})'
    sizes = {key: arch[key] for key in ('embed_dims', 'depths', 'num_heads')}
    name = SWIN_V2.name_of(sizes)
    depths, heads = (','.join(str(n) for n in sizes[key]) for key in ('depths', 'num_heads'))
    return f'SwinV2{"-" + name if name else ""} ({sizes["embed_dims"] or "?"} channels, depths {depths}, heads {heads})'


def sizes_of(weights: State) -> dict:
    """Weights under our names -> the arch of a SwinV2, or of a DeepViT where no key starts with ``stages.``; a size that
    they do not tell is 0."""
    return _swin_v2(weights) if any(key.startswith('stages.') for key in weights) else _deepvit(weights)


def _side(weights: State, key: str, axis: int = 0) -> int:
    return weights[key].shape[axis] if key in weights and weights[key].ndim > axis else 0


def _ratio(hidden: int, dim: int):
    """So that int(ratio * dim) is hidden."""
    if not dim or hidden % dim == 0:
        return hidden // dim if dim else 0
    return hidden / dim if int(hidden / dim * dim) == hidden else (hidden + 0.5) / dim


def _heads(weights: State, attn: str) -> int:
    """Dot-product attention has no scale; its position bias tells the heads."""
    names = ('logit_scale', 'position_bias.mlp.2.weight', 'position_bias.table')
    return next(filter(None, (_side(weights, attn + name) for name in names)), 0)


def _swin_v2(weights: State) -> dict:
    places = {
        tuple(map(int, match.groups()))
        for match in (re.match(r'stages\.(\d+)\.blocks\.(\d+)\.', key) for key in weights)
        if match
    }
    stages = 1 + max((stage for stage, _ in places), default=-1)
    depths = tuple(1 + max((block for stage, block in places if stage == i), default=-1) for i in range(stages))
    dim = _side(weights, 'patch_embed.proj.weight') or _side(weights, 'stages.0.blocks.0.norm1.weight')
    extra = [
        int(match[1]) + 1
        for match in (re.fullmatch(r'stages\.\d+\.blocks\.(\d+)\.extra_norm\.weight', key) for key in weights)
        if match
    ]
    return dict(
        embed_dims=dim,
        depths=depths,
        num_heads=tuple(_heads(weights, f'stages.{i}.blocks.0.attn.') for i in range(stages)),
        mlp_ratio=_ratio(_side(weights, 'stages.0.blocks.0.mlp.fc1.bias'), dim),
        extra_norm_every=min(extra, default=0),
    )


def _deepvit(weights: State) -> dict:
    blocks = {int(match[1]) for match in (re.match(r'blocks\.(\d+)\.', key) for key in weights) if match}
    mixing = [int(key.split('.')[1]) for key in weights if key.endswith('attn.reatten_matrix.weight')]
    dim = _side(weights, 'cls_token', 2) or _side(weights, 'blocks.0.norm1.weight')
    arch = dict(
        embed_dims=dim,
        depth=1 + max(blocks, default=-1),
        re_attention=len(mixing),
        mlp_ratio=_ratio(_side(weights, 'blocks.0.mlp.fc1.bias'), dim),
        stem='conv' if any(key.startswith('patch_embed.conv1') for key in weights) else 'linear',
    )
    # A plain ViT's heads do not show in its weights.
    heads: int | None = _side(weights, f'blocks.{max(mixing)}.attn.var_norm.weight') if mixing else None
    return {**arch, 'num_heads': heads} if heads else arch
