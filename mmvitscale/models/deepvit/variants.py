"""Variants of DeepViT, the plain ViTs that it is compared with among them, and which of them weights are of."""

import re
from typing import Any

from mmvitscale.checkpoints.convert import State
from mmvitscale.models.variants import Variants, mlp_ratio_of, side

# The official code's models. The last ``re_attention`` blocks mix their maps; ``residual_scale`` is r in
# x + f(norm(r x)) / r.
DEEPVIT = Variants(
    'DeepViT',
    {
        'deepvit-16b': dict(embed_dims=384, depth=16, re_attention=16),
        'deepvit-24b': dict(embed_dims=384, depth=24, re_attention=24),
        'deepvit-32b': dict(embed_dims=384, depth=32, re_attention=32),
        'vit-16b': dict(embed_dims=384, depth=16, re_attention=0),
        'vit-24b': dict(embed_dims=384, depth=24, re_attention=0),
        'vit-32b': dict(embed_dims=384, depth=32, re_attention=0),
        'deepvit-s': dict(embed_dims=396, depth=16, re_attention=5, stem='conv', residual_scale=0.5, transform_scale=True),
        'deepvit-l': dict(embed_dims=420, depth=32, re_attention=12, stem='conv', residual_scale=0.5),
    },
    frozenset({'embed_dims', 'depth', 're_attention'}),
    dict(num_heads=12, mlp_ratio=3, stem='linear', residual_scale=1.0, transform_scale=False),
)


def sizes_of(weights: State) -> dict[str, Any]:
    """Weights under our names -> the arch; a size that they do not show is 0."""
    blocks = {int(match[1]) for match in (re.match(r'blocks\.(\d+)\.', key) for key in weights) if match}
    mixing = [int(key.split('.')[1]) for key in weights if key.endswith('attn.reatten_matrix.weight')]
    dim = side(weights, 'cls_token', 2) or side(weights, 'blocks.0.norm1.weight')
    arch = dict(
        embed_dims=dim,
        depth=1 + max(blocks, default=-1),
        re_attention=len(mixing),
        mlp_ratio=mlp_ratio_of(side(weights, 'blocks.0.mlp.fc1.bias'), dim),
        stem='conv' if any(key.startswith('patch_embed.conv1') for key in weights) else 'linear',
    )
    # A plain ViT's heads do not show in its weights.
    heads = side(weights, f'blocks.{max(mixing)}.attn.var_norm.weight') if mixing else 0
    return {**arch, 'num_heads': heads} if heads else arch


def describe_weights(weights: State) -> str:
    """``deepvit-32b (384 channels, 32 blocks, 32 with Re-attention)``, as far as damaged weights allow."""
    arch = sizes_of(weights)
    name = DEEPVIT.name_of({key: arch[key] for key in ('embed_dims', 'depth', 're_attention', 'stem')})
    mixing = f'{arch["re_attention"]} with Re-attention'
    return f'{name or "DeepViT"} ({arch["embed_dims"] or "?"} channels, {arch["depth"]} blocks, {mixing})'
