"""DeepViT for dense prediction (Zhou et al. 2021, DeepViT: Towards Deeper Vision Transformer, arXiv 2103.11886)."""

import re
from contextlib import nullcontext
from math import ceil, isqrt
from typing import List, Optional, Sequence, Set, Tuple, Union

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...checkpoints.convert import State
from ...checkpoints.lineage import GridLineage
from ...errors import InputError
from ...registry import MODELS
from ..layers.drop_path import DropPath
from ..layers.feed_forward import FeedForward
from ..layers.patch_embed import ConvStem, LinearStem
from ..layers.position_embedding import resize_position_embedding
from ..layers.re_attention import KERNELS, ReAttention, SelfAttention, statistics_kept
from .backbone import Backbone
from .variants import DEEPVIT

_STEMS = {'linear': LinearStem, 'conv': ConvStem}


class Block(nn.Module):
    """(B, N, C) -> (B, N, C): x + attn(norm(r x)) / r, then x + mlp(norm(r x)) / r."""

    def __init__(self, dim: int, attn: nn.Module, mlp_ratio: float, drop_path: float, residual_scale: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = FeedForward(dim, int(mlp_ratio * dim))
        self.drop_path = DropPath(drop_path)
        self.residual_scale = residual_scale

    def forward(self, x: Tensor) -> Tensor:
        r = self.residual_scale
        x = x + self.drop_path(self.attn(self.norm1(x * r))) / r
        return x + self.drop_path(self.mlp(self.norm2(x * r))) / r


@MODELS.register_module()
class DeepViT(Backbone):
    """(B, in_channels, H, W), any H, W >= 1 -> a tuple with one (B, C, ceil(H / 16), ceil(W / 16)) for each i in
    ``out_indices``: the tokens after block i, without the class token. The last block's pass the final LayerNorm.

    The BatchNorm of Re-attention learns the statistics of maps of the trained number of tokens (their mean is 1 / N),
    so a model trained on one crop size is best tested on windows of that size (``test_cfg`` mode slide).

    Args:
        arch: deepvit-16b, -24b, -32b, -s, -l, vit-16b, -24b, -32b (the plain baselines), or a dict with embed_dims,
            depth, re_attention and, if wanted, num_heads (12), mlp_ratio (3), stem (linear or conv), residual_scale
            (1), transform_scale (False).
        img_size: side or (height, width) of the image whose grid the learned position embedding has; for other sizes
            it is resized bicubically.
        out_indices: the blocks to return, None for the last one.
        attention: kernel of Re-attention: auto, eager or sequential.
        attn_drop_rate: dropout of the attention maps.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0 over the blocks.
        with_cp: recompute every block in the backward pass instead of storing its activations.
        frozen_stages: -1 freezes nothing, 0 stem and embeddings, n also the first n blocks.
        in_channels: channels of the image.
        init_cfg: MMEngine's initialisation config.

    Raises:
        InputError: for arguments that fit no model, in one sentence.
    """

    family = 'DeepViT'
    patch_size = 16

    def __init__(self,
                 arch: Union[str, dict] = 'deepvit-32b',
                 img_size: Union[int, Tuple[int, int]] = 224,
                 out_indices: Optional[Sequence[int]] = None,
                 attention: str = 'auto',
                 attn_drop_rate: float = 0.0,
                 drop_path_rate: float = 0.2,
                 with_cp: bool = False,
                 frozen_stages: int = -1,
                 in_channels: int = 3,
                 init_cfg: Optional[dict] = None):
        super().__init__(init_cfg)
        self.arch = arch = DEEPVIT.resolve(arch)
        if arch['stem'] not in _STEMS:
            raise InputError(f'unknown stem {arch["stem"]!r}; choose one of {", ".join(_STEMS)}')
        if not 0 <= arch['re_attention'] <= arch['depth']:
            raise InputError(f're_attention {arch["re_attention"]} found, but it is 0 to {arch["depth"]}, the depth')
        dim, depth = arch['embed_dims'], arch['depth']
        self.out_indices = (depth - 1, ) if out_indices is None else tuple(out_indices)
        if not self.out_indices or not all(0 <= i < depth for i in self.out_indices):
            raise InputError(f'out_indices {self.out_indices} found, but this model has blocks 0 to {depth - 1}')
        if attention not in KERNELS:
            raise InputError(f'unknown attention {attention!r}; choose one of {", ".join(KERNELS)}')
        if not -1 <= frozen_stages <= depth:
            raise InputError(f'frozen_stages {frozen_stages} found, but it is -1 (nothing) to {depth} (all blocks)')
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp
        sides = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        self.grid = tuple(ceil(side / self.patch_size) for side in sides)

        self.patch_embed = _STEMS[arch['stem']](in_channels, dim, self.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid[0] * self.grid[1], dim))
        drop_paths = torch.linspace(0, drop_path_rate, depth, device='cpu').tolist()
        self.blocks = nn.ModuleList()
        for i in range(max(self.out_indices) + 1):
            if i >= depth - arch['re_attention']:
                attn = ReAttention(dim, arch['num_heads'], arch['transform_scale'], attention, attn_drop_rate)
            else:
                attn = SelfAttention(dim, arch['num_heads'], attn_drop_rate)
            self.blocks.append(Block(dim, attn, arch['mlp_ratio'], drop_paths[i], arch['residual_scale']))
        self.norm = nn.LayerNorm(dim, eps=1e-6) if depth - 1 in self.out_indices else None

        self.reset_parameters()
        self._freeze()

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        x = self.patch_embed(x)
        batch, height, width, _ = x.shape
        x = torch.cat((self.cls_token.expand(batch, -1, -1), x.flatten(1, 2)), dim=1)
        x = x + resize_position_embedding(self.pos_embed, self.grid, (height, width))
        outs = []
        for i, block in enumerate(self.blocks):
            x = self._recomputed(block, x) if self.with_cp and torch.is_grad_enabled() else block(x)
            if i in self.out_indices:
                out = self.norm(x) if i == self.arch['depth'] - 1 else x
                outs.append(out[:, 1:].transpose(1, 2).unflatten(2, (height, width)).contiguous())
        return tuple(outs)

    @staticmethod
    def _recomputed(block: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), statistics_kept(block)))

    def reset_parameters(self) -> None:
        """The official initialisation: linear weights, class token and position embedding N(0, 0.02) truncated, linear
        biases zero."""
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def get_layer_depth(self, name: str, prefix: str = '') -> Tuple[int, int]:
        """Parameter name -> (depth, number of depths), for layer-wise learning rates: stem and embeddings 0, block i
        i + 1, and all else (final norm, heads: what does not start with ``prefix``) the last depth."""
        num_depths = self.arch['depth'] + 2
        if not name.startswith(prefix):
            return num_depths - 1, num_depths
        parts = name[len(prefix):].split('.')
        if parts[0] in ('patch_embed', 'cls_token', 'pos_embed'):
            return 0, num_depths
        return (int(parts[1]) + 1 if parts[0] == 'blocks' else num_depths - 1), num_depths

    def no_weight_decay(self) -> Set[str]:
        """Names of the parameters that take no weight decay: embeddings, norms and biases."""
        return {name for name, parameter in self.named_parameters()
                if parameter.ndim <= 1 or name in ('cls_token', 'pos_embed')}

    def train(self, mode: bool = True) -> 'DeepViT':
        """Training mode for all but the frozen blocks."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def _frozen_modules(self) -> List[nn.Module]:
        return [] if self.frozen_stages < 0 else [self.patch_embed, *self.blocks[:self.frozen_stages]]

    def _freeze(self) -> None:
        for module in self._frozen_modules():
            module.eval()
            module.requires_grad_(False)
        if self.frozen_stages >= 0:
            self.cls_token.requires_grad_(False)
            self.pos_embed.requires_grad_(False)

    @property
    def lineage(self) -> GridLineage:
        """The grid of its position embedding."""
        return GridLineage(self.grid)

    def fit_positions(self, weights: State, lineage: Optional[GridLineage], exact: bool) -> Tuple[State, List[str]]:
        """The position embedding resized bicubically from the grid that it was learned with to this one.

        Weights of before grids were recorded are taken to have this grid if they have as many positions, else a square
        one.
        """
        embedding = weights.get('pos_embed')
        if embedding is None or embedding.ndim != 3:
            return weights, []
        positions = embedding.shape[1] - 1
        side = isqrt(max(positions, 0))
        grid = lineage.grid if lineage else self.grid if positions == self.grid[0] * self.grid[1] else (side, side)
        if grid[0] * grid[1] != positions or not positions:
            what = 'grid of {}x{}'.format(*grid) if lineage else 'square grid'
            raise InputError(f'its position embedding has {positions} positions, which is no {what}, and the model\'s is '
                             f'{self.grid}; set img_size to the size the checkpoint was trained with')
        if grid == self.grid:
            return weights, []
        resized = resize_position_embedding(embedding, grid, self.grid)
        return {**weights, 'pos_embed': resized}, [f'position embedding resized from {grid[0]}x{grid[1]} to '
                                                   f'{self.grid[0]}x{self.grid[1]}']

    def may_be_new(self, key: str) -> bool:
        """The final norm."""
        return key.startswith('norm.')

    def leaves_out(self, key: str) -> bool:
        """Blocks after the last output, and the final norm where the last block is not returned."""
        block = re.match(r'blocks\.(\d+)\.', key)
        return key.startswith('norm.') and self.norm is None or \
            bool(block) and len(self.blocks) <= int(block[1]) < self.arch['depth']
