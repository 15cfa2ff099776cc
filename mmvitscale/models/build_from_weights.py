"""Which backbone the weights of a file without a config are of, and whether they are complete."""

from typing import Any

import torch

from mmvitscale.checkpoints.convert import Converted, State
from mmvitscale.checkpoints.loading import match_weights
from mmvitscale.checkpoints.metadata import GridMetadata, WindowMetadata
from mmvitscale.errors import InputError
from mmvitscale.models.base_backbone import BaseBackbone
from mmvitscale.models.deepvit import DeepViT
from mmvitscale.models.deepvit import variants as deepvit
from mmvitscale.models.swin_v2 import SwinTransformerV2
from mmvitscale.models.swin_v2 import variants as swin_v2


def describe_weights(weights: State) -> str:
    """Weights under our names -> which variant they are of, for messages."""
    is_swin_v2 = any(key.startswith('stages.') for key in weights)
    return (swin_v2 if is_swin_v2 else deepvit).describe_weights(weights)


def check_complete(converted: Converted) -> None:
    """Raise InputError unless the weights are exactly those of the backbone that they look like."""
    try:
        with torch.device('meta'):
            backbone = _deepvit(converted) if converted.family == 'DeepViT' else _swin_v2(converted)
    except (KeyError, ValueError, ZeroDivisionError, IndexError) as error:
        raise InputError(
            f'the checkpoint is incomplete: it looks like a {describe_weights(converted.weights)}, and no '
            f'backbone has these sizes ({error}); take the file as it was saved'
        ) from error
    match_weights(backbone, converted.state_dict(), prefix='', extra_channels=None)


# As far as sizes show it. Sizes that do not go together raise KeyError, ValueError, ZeroDivisionError or IndexError.


def _deepvit(converted: Converted) -> BaseBackbone:
    weights, metadata = converted.weights, converted.weight_metadata
    stem = 'patch_embed.conv1.weight' if 'patch_embed.conv1.weight' in weights else 'patch_embed.proj.weight'
    grid = metadata.grid if isinstance(metadata, GridMetadata) else (1, weights['pos_embed'].shape[1] - 1)
    return DeepViT(
        {'num_heads': 1, **deepvit.sizes_of(weights)},
        (DeepViT.patch_size * grid[0], DeepViT.patch_size * grid[1]),
        in_channels=weights[stem].shape[1],
        block_norm='post' if any('.post_norm' in key for key in weights) else 'pre',
    )


def _swin_v2(converted: Converted) -> BaseBackbone:
    weights, metadata = converted.weights, converted.weight_metadata
    arch = swin_v2.sizes_of(weights)
    stages = len(arch['depths'])
    bias = (isinstance(metadata, WindowMetadata) and metadata.position_bias) or 'log_cpb'
    windows: list[Any] = [8] * stages
    if bias == 'table':
        tables = [weights[f'stages.{i}.blocks.0.attn.position_bias.table'] for i in range(stages)]
        windows = [tuple((side + 1) // 2 for side in table.shape[1:]) for table in tables]
    norms = [int(key.split('.')[1]) for key in weights if key.startswith('out_norms.') and key.endswith('.weight')]
    pre_norm, cosine = (any(part in key for key in weights) for part in ('.pre_norm', '.attn.logit_scale'))
    return SwinTransformerV2(
        arch,
        windows,
        position_bias=bias,
        out_indices=sorted({*norms, stages - 1}),
        in_channels=weights['patch_embed.proj.weight'].shape[1],
        block_norm='pre' if pre_norm else 'post',
        attention_type='cosine' if cosine else 'dot_product',
    )
