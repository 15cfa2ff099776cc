"""DeepViT for dense prediction (Zhou et al. 2021, DeepViT: Towards Deeper Vision Transformer, arXiv 2103.11886)."""

from contextlib import nullcontext
from math import ceil, isqrt
from typing import Dict, List, Optional, Sequence, Set, Tuple, Union

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...errors import InputError
from ...registry import MODELS
from ..layers.drop_path import DropPath
from ..layers.feed_forward import FeedForward
from ..layers.patch_embed import ConvStem, LinearStem
from ..layers.position_embedding import resize_position_embedding
from ..layers.re_attention import KERNELS, ReAttention, SelfAttention, statistics_kept

# The official code's models. The last ``re_attention`` blocks mix their maps; ``residual_scale`` is r in
# x + f(norm(r x)) / r.
ARCHS: Dict[str, dict] = {
    'deepvit-16b': dict(embed_dims=384, depth=16, re_attention=16),
    'deepvit-24b': dict(embed_dims=384, depth=24, re_attention=24),
    'deepvit-32b': dict(embed_dims=384, depth=32, re_attention=32),
    'vit-16b': dict(embed_dims=384, depth=16, re_attention=0),
    'vit-24b': dict(embed_dims=384, depth=24, re_attention=0),
    'vit-32b': dict(embed_dims=384, depth=32, re_attention=0),
    'deepvit-s': dict(embed_dims=396, depth=16, re_attention=5, stem='conv', residual_scale=0.5, transform_scale=True),
    'deepvit-l': dict(embed_dims=420, depth=32, re_attention=12, stem='conv', residual_scale=0.5),
}
_DEFAULTS = dict(num_heads=12, mlp_ratio=3, stem='linear', residual_scale=1.0, transform_scale=False)
_STEMS = {'linear': LinearStem, 'conv': ConvStem}
_REQUIRED = {'embed_dims', 'depth', 're_attention'}


def resolve_arch(arch: Union[str, dict]) -> dict:
    """The name of a variant, or a dict -> the dict with every key. Raises InputError for what is neither."""
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise InputError(f'unknown DeepViT arch {arch!r}; choose one of {", ".join(ARCHS)}, or give a dict with '
                             'embed_dims, depth and re_attention (number of last blocks that mix their maps)')
        arch = ARCHS[arch]
    missing, unknown = _REQUIRED - set(arch), set(arch) - _REQUIRED - set(_DEFAULTS)
    if missing or unknown:
        raise InputError(f'a DeepViT arch has {sorted(_REQUIRED)}, and may have {sorted(_DEFAULTS)}; missing: '
                         f'{sorted(missing) or "nothing"}, unknown: {sorted(unknown) or "nothing"}')
    arch = {**_DEFAULTS, **arch}
    if arch['stem'] not in _STEMS:
        raise InputError(f'unknown stem {arch["stem"]!r}; choose one of {", ".join(_STEMS)}')
    if not 0 <= arch['re_attention'] <= arch['depth']:
        raise InputError(f're_attention {arch["re_attention"]} found, but it is 0 to {arch["depth"]}, the depth')
    return arch


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
class DeepViT(BaseModule):
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
        self.arch = arch = resolve_arch(arch)
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

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        """A position embedding of another, square grid is resized to this one."""
        embedding = state_dict.get(prefix + 'pos_embed')
        if embedding is not None and embedding.shape[1] != self.pos_embed.shape[1]:
            side = isqrt(embedding.shape[1] - 1)
            if side**2 != embedding.shape[1] - 1:
                raise InputError(f'the checkpoint\'s position embedding has {embedding.shape[1] - 1} positions, which is '
                                 f'no square grid, and the model\'s is {self.grid}; set img_size to the size the '
                                 'checkpoint was trained with')
            print_log(f'DeepViT: position embedding resized from {side}x{side} to {self.grid[0]}x{self.grid[1]}',
                      'current')
            state_dict[prefix + 'pos_embed'] = resize_position_embedding(embedding, (side, side), self.grid)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
