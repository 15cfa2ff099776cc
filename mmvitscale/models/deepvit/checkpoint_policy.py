"""What a DeepViT does when weights are loaded: the grid of its position embedding, the tokens of its statistics, and which
weights may differ."""

import re
from math import isqrt
from typing import Any

from mmvitscale.checkpoints.convert import State
from mmvitscale.checkpoints.metadata import VERSION, GridMetadata, Size
from mmvitscale.errors import InputError
from mmvitscale.models.base_backbone import BaseBackbone
from mmvitscale.models.deepvit.position_embedding import resize_position_embedding
from mmvitscale.models.deepvit.re_attention import ReAttention
from mmvitscale.models.deepvit.variants import describe_weights


class DeepViTCheckpointPolicy(BaseBackbone):
    """Base of DeepViT: its side of checkpoint loading (``BaseBackbone`` has the contract)."""

    family = 'DeepViT'
    weights_source = 'the official ones are on Google Drive, linked in the README of github.com/zhoudaquan/dvit_repo'
    _version = VERSION

    # Of the backbone itself.
    arch: dict[str, Any]
    blocks: Any
    grid: Size
    window: Size | None
    global_blocks: frozenset[int]
    norm: Any

    def _re_attentions(self) -> dict[int, ReAttention]:
        return {i: block.attn for i, block in enumerate(self.blocks) if isinstance(block.attn, ReAttention)}

    def _own_tokens(self, block: int) -> int:
        """How many tokens a block attends to in an image of ``img_size``, the class token among them."""
        within = self.grid if self.window is None or block in self.global_blocks else self.window
        return 1 + min(within[0], self.grid[0]) * min(within[1], self.grid[1])

    @property
    def weight_metadata(self) -> GridMetadata:
        """The grid of its position embedding, and the tokens that each Re-attention's statistics are of."""
        tokens = {i: attn.token_law.trained_tokens for i, attn in self._re_attentions().items()}
        return GridMetadata(self.grid, tuple(tokens.get(i, 0) for i in range(len(self.blocks))))

    def complete_metadata(self, weights: State, metadata: GridMetadata | None) -> GridMetadata | None:
        """Weights from before grids were recorded are taken to have this grid if they have as many positions, else a square
        one, and statistics of all of it; those from before tokens were recorded, statistics of this model's windows, if they
        have its grid."""
        embedding = weights.get('pos_embed')
        if embedding is None or embedding.ndim != 3:
            return metadata
        positions = embedding.shape[1] - 1
        side = isqrt(max(positions, 0))
        grid = metadata.grid if metadata else self.grid if positions == self.grid[0] * self.grid[1] else (side, side)
        if grid[0] * grid[1] != positions or not positions:
            what = f'grid of {grid[0]}x{grid[1]}' if metadata else 'square grid'
            raise InputError(
                f"its position embedding has {positions} positions, which is no {what}, and the model's is "
                f'{self.grid}; set img_size to the size the checkpoint was trained with'
            )
        known = metadata.tokens if metadata else ()
        tokens = []
        for i in range(len(self.blocks)):
            guess = self._own_tokens(i) if metadata and grid == self.grid else 1 + positions
            tokens.append(0 if i not in self._re_attentions() else known[i] if i < len(known) and known[i] else guess)
        return GridMetadata(grid, tuple(tokens))

    def apply_metadata(self, metadata: GridMetadata | None) -> None:
        """Statistics are of the tokens that the weights being loaded were trained with."""
        for i, attn in self._re_attentions().items():
            known = metadata.tokens[i] if metadata and i < len(metadata.tokens) else 0
            attn.token_law.trained_tokens = known or self._own_tokens(i)

    def sync_metadata(self, other: 'DeepViTCheckpointPolicy') -> None:
        """Statistics are of the tokens that those of another model of the same config are of."""
        self.apply_metadata(other.weight_metadata)

    def resize_position_weights(self, weights: State, metadata: GridMetadata | None, strict: bool) -> tuple[State, list[str]]:
        """The position embedding resized bicubically from the grid that it was trained with to this one. Weights from before
        exponents were learned have the usual ones."""
        weights = dict(weights)
        for key in [key for key in weights if key.endswith('.attn.var_norm.weight')]:
            law = key.replace('var_norm.weight', 'token_law')
            heads = weights[key]
            weights.setdefault(f'{law}.tokens', heads.new_zeros(3))
            weights.setdefault(f'{law}.moments', heads.new_zeros(2, *heads.shape))
        if metadata is None or metadata.grid == self.grid:
            return weights, []
        grid = metadata.grid
        resized = resize_position_embedding(weights['pos_embed'], grid, self.grid)
        return {**weights, 'pos_embed': resized}, [
            f'position embedding resized from {grid[0]}x{grid[1]} to {self.grid[0]}x{self.grid[1]}'
        ]

    def describe_weights(self, weights: State) -> str:
        """Weights under our names -> which variant they are of, for messages."""
        return describe_weights(weights)

    def allows_missing(self, key: str) -> bool:
        """The final norm."""
        return key.startswith('norm.')

    def ignores_unexpected(self, key: str) -> bool:
        """Blocks after the last output, the final norm where the last block is not returned, and what pretraining puts for
        masked patches."""
        block = re.match(r'blocks\.(\d+)\.', key)
        unbuilt = block is not None and len(self.blocks) <= int(block[1]) < self.arch['depth']
        return unbuilt or key == 'mask_token' or (key.startswith('norm.') and self.norm is None)
