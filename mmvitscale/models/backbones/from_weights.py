"""Whether a file that comes without a config holds a whole backbone."""

import torch

from ...checkpoints.convert import Converted
from ...checkpoints.door import prepare
from ...checkpoints.lineage import GridLineage, WindowLineage
from ...errors import InputError
from .backbone import Backbone
from .deepvit import DeepViT
from .recognise import describe_weights, sizes_of
from .swin_v2 import SwinTransformerV2


def check_complete(converted: Converted) -> None:
    """Raise InputError unless the weights are exactly those of the backbone that they look like."""
    try:
        with torch.device('meta'):
            backbone = _build(converted)
    except (KeyError, ValueError, ZeroDivisionError, IndexError) as error:
        raise InputError(
            f'the checkpoint is incomplete: it looks like a {describe_weights(converted.weights)}, and no '
            f'backbone has these sizes ({error}); take the file as it was saved'
        ) from error
    prepare(backbone, converted.state_dict(), prefix='', extra_channels=None)


def _build(converted: Converted) -> Backbone:
    """The backbone, as far as sizes tell it. Sizes that do not go together raise KeyError, ValueError, ZeroDivisionError or
    IndexError."""
    weights, lineage = converted.weights, converted.lineage
    arch = sizes_of(weights)
    stem = 'patch_embed.conv1.weight' if 'patch_embed.conv1.weight' in weights else 'patch_embed.proj.weight'
    channels = weights[stem].shape[1]
    if converted.family == 'DeepViT':
        grid = lineage.grid if isinstance(lineage, GridLineage) else (1, weights['pos_embed'].shape[1] - 1)
        size = (DeepViT.patch_size * grid[0], DeepViT.patch_size * grid[1])
        return DeepViT(
            {'num_heads': 1, **arch},
            size,
            in_channels=channels,
            block_norm='post' if any('.post_norm' in key for key in weights) else 'pre',
        )
    stages = len(arch['depths'])
    assert isinstance(lineage, WindowLineage)  # what a SwinV2 comes with
    windows, bias = [8] * stages, lineage.position_bias or 'log_cpb'
    if bias == 'table':
        windows = [
            tuple((side + 1) // 2 for side in weights[f'stages.{i}.blocks.0.attn.position_bias.table'].shape[1:])
            for i in range(stages)
        ]
    norms = [int(key.split('.')[1]) for key in weights if key.startswith('out_norms.') and key.endswith('.weight')]
    pre_norm, cosine = (any(part in key for key in weights) for part in ('.pre_norm', '.attn.logit_scale'))
    return SwinTransformerV2(
        arch,
        windows,
        position_bias=bias,
        out_indices=sorted({*norms, stages - 1}),
        in_channels=channels,
        block_norm='pre' if pre_norm else 'post',
        similarity='cosine' if cosine else 'dot_product',
    )
