"""Variants of SwinV2, and which of them weights are of."""

import re
from typing import Any

from mmvitscale.checkpoints.convert import State
from mmvitscale.models.variants import Variants, mlp_ratio_of, side

# Section 4.1; the heads of huge and giant are not in the paper: those of the mmpretrain models. The extra LayerNorm
# of huge and giant is section 3.2.
SWIN_V2 = Variants(
    'SwinV2',
    {
        'tiny': dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
        'small': dict(embed_dims=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
        'base': dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
        'large': dict(embed_dims=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48)),
        'huge': dict(embed_dims=352, depths=(2, 2, 18, 2), num_heads=(8, 16, 32, 64), extra_norm_every=6),
        'giant': dict(embed_dims=512, depths=(2, 2, 42, 4), num_heads=(16, 32, 64, 128), extra_norm_every=6),
    },
    frozenset({'embed_dims', 'depths', 'num_heads'}),
    dict(mlp_ratio=4, extra_norm_every=0),
)


def sizes_of(weights: State) -> dict[str, Any]:
    """Weights under our names -> the arch; a size that they do not show is 0."""
    places = {
        tuple(map(int, match.groups()))
        for match in (re.match(r'stages\.(\d+)\.blocks\.(\d+)\.', key) for key in weights)
        if match
    }
    stages = 1 + max((stage for stage, _ in places), default=-1)
    depths = tuple(1 + max((block for stage, block in places if stage == i), default=-1) for i in range(stages))
    dim = side(weights, 'patch_embed.proj.weight') or side(weights, 'stages.0.blocks.0.norm1.weight')
    extra = [
        int(match[1]) + 1
        for match in (re.fullmatch(r'stages\.\d+\.blocks\.(\d+)\.extra_norm\.weight', key) for key in weights)
        if match
    ]
    return dict(
        embed_dims=dim,
        depths=depths,
        num_heads=tuple(_heads(weights, f'stages.{i}.blocks.0.attn.') for i in range(stages)),
        mlp_ratio=mlp_ratio_of(side(weights, 'stages.0.blocks.0.mlp.fc1.bias'), dim),
        extra_norm_every=min(extra, default=0),
    )


def _heads(weights: State, attn: str) -> int:
    """Dot-product attention has no scale; its position bias shows the heads."""
    names = ('logit_scale', 'position_bias.mlp.2.weight', 'position_bias.table')
    return next(filter(None, (side(weights, attn + name) for name in names)), 0)


def describe_weights(weights: State) -> str:
    """``SwinV2-tiny (96 channels, depths 2,2,6,2, heads 3,6,12,24)``, as far as damaged weights allow."""
    arch = sizes_of(weights)
    sizes = {key: arch[key] for key in ('embed_dims', 'depths', 'num_heads')}
    name = SWIN_V2.name_of(sizes)
    depths, heads = (','.join(str(n) for n in sizes[key]) for key in ('depths', 'num_heads'))
    return f'SwinV2{"-" + name if name else ""} ({sizes["embed_dims"] or "?"} channels, depths {depths}, heads {heads})'
