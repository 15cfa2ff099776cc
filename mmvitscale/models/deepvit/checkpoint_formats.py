"""How libraries name a DeepViT: the official repository, whose names are ours, and what differs in both directions."""

import re
from dataclasses import dataclass
from math import isqrt

from torch import Tensor

from mmvitscale.checkpoints.convert import CheckpointFormat, ClassName, Converted, ConvertedBack, Read, State, register
from mmvitscale.checkpoints.metadata import GridMetadata, WeightMetadata, show_windows
from mmvitscale.errors import InputError

_NAMES = re.compile(r'(cls_token|pos_embed|mask_token|(?:patch_embed|blocks|norm)\..*)')


@dataclass(frozen=True)
class OfficialFormat(CheckpointFormat):
    """The official repository's DeepViT, and ours: the same names. Ours has metadata, and exponents of Re-attention's
    statistics; theirs has a classifier."""

    family = 'DeepViT'

    def read(self, keys: State, entry: Tensor | None) -> Read:
        """Keys behind the prefix -> our names; as in ``CheckpointFormat``."""
        weights = {key: value for key, value in keys.items() if _NAMES.fullmatch(key)}
        dropped = [key for key in keys if key.startswith('head.')]
        unknown = [key for key in keys if key not in weights and key not in dropped]
        metadata = GridMetadata.decode(entry) if entry is not None else _square_grid(weights, bool(dropped))
        return Read('mmvitscale' if entry is not None else self.name, weights, dropped, unknown, metadata)

    def write(self, converted: Converted, weight_metadata: WeightMetadata | None, heads: State) -> ConvertedBack:
        """Our weights -> the official ones. Statistics of another number of tokens become those of the weights' own grid, with
        which the official form then computes what ``reatten_statistics='token_invariant'`` does."""
        if any('.post_norm' in key for key in converted.weights):
            raise InputError('the official DeepViT has no block_norm post; it stays in mmvitscale')
        metadata = weight_metadata if isinstance(weight_metadata, GridMetadata) else None
        if metadata and metadata.grid[0] != metadata.grid[1]:
            raise InputError(
                f'its position embedding has the grid {show_windows([metadata.grid])}, but the official DeepViT takes '
                'square images; train with a square img_size'
            )
        left_out = [key for key in converted.weights if key == 'mask_token' or '.token_law.' in key]
        weights = {key: value.clone() for key, value in converted.weights.items() if key not in left_out}
        arguments: dict[str, object] = dict(
            model_name=ClassName('NAME_IN_THE_OFFICIAL_CODE'), num_classes=len(heads['weight']) if heads else 0
        )
        notes = []
        if 'norm.weight' not in weights:
            notes.append('the checkpoint has no norm behind the last block, which is initialised there')
        if metadata:
            arguments['img_size'] = 16 * metadata.grid[0]
            tokens = 1 + metadata.grid[0] * metadata.grid[1]
            moved = [i for i, own in enumerate(metadata.tokens) if _move_statistics(weights, f'blocks.{i}.attn', own, tokens)]
            if moved:
                notes.append(f'the statistics of {len(moved)} blocks are those of the grid {show_windows([metadata.grid])} now')
        weights.update({f'head.{name}': value.clone() for name, value in heads.items()})
        return ConvertedBack('official', weights, weights, left_out, 'timm.create_model', arguments, notes=notes)


def _square_grid(weights: State, official: bool) -> GridMetadata | None:
    """The grid of an official DeepViT is square, and its statistics are of all of it. Without its classifier the weights may
    be ours from before grids were recorded: None."""
    embedding = weights.get('pos_embed')
    positions = embedding.shape[1] - 1 if embedding is not None and embedding.ndim == 3 else 0
    side = isqrt(max(positions, 0))
    if not official or positions < 1 or side**2 != positions:
        return None
    blocks = 1 + max((int(key.split('.')[1]) for key in weights if key.startswith('blocks.')), default=-1)
    return GridMetadata((side, side), (1 + positions,) * blocks)  # there every block attends to all


def _move_statistics(weights: State, attn: str, trained: int, tokens: int) -> bool:
    """Give a Re-attention the mean and the bias with which the official form computes with so many tokens what the
    token-invariant one does (re_attention_norm.py); the gain is the same. False where there is nothing to do."""
    if not trained or trained == tokens:
        return False
    total = weights[f'{attn}.reatten_matrix.weight'].flatten(1).sum(1)
    names = ('reatten_matrix.bias', 'var_norm.running_mean', 'var_norm.bias')
    shift, mean, bias = (weights[f'{attn}.{name}'] for name in names)
    left = total / trained + shift - mean
    weights[f'{attn}.var_norm.running_mean'] = total / tokens + shift - left * (trained / tokens)
    weights[f'{attn}.var_norm.bias'] = bias * (trained / tokens)
    return True


register(
    OfficialFormat(
        name='official DeepViT',
        library='official',
        # Not the blocks of a stage, which SwinV2 has.
        anchor=re.compile(
            r'((?:(?!(?:layers|stages)[._]\d+\.).)*?\.)?blocks\.\d+\.attn\.(?:qkv\.(?:parametrizations\.)?weight|reatten_matrix\.)'
        ),
        decoder='decoder.0',
    )
)
