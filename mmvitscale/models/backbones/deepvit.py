"""DeepViT for dense prediction (Zhou et al. 2021, DeepViT: Towards Deeper Vision Transformer, arXiv 2103.11886)."""

import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from math import ceil, isqrt
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import MessageHub
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...checkpoints.convert import State
from ...checkpoints.lineage import VERSION, GridLineage
from ...errors import InputError
from ...registry import MODELS
from ..layers.drop_path import DropPath, check_rate
from ..layers.feed_forward import FeedForward
from ..layers.map_normalisation import STATISTICS, statistics_kept
from ..layers.padding import split_validity, valid_sizes, valid_tokens
from ..layers.patch_embed import ConvStem, LinearStem
from ..layers.position_embedding import resize_position_embedding
from ..layers.re_attention import KERNELS, MapRows, ReAttention, SelfAttention
from ..layers.similarity_loss import neighbour_similarity, with_loss
from ..layers.windows import Window, WindowGeometry, to_window, window_geometry, window_merge, window_partition
from .backbone import Backbone
from .variants import DEEPVIT

_OUT_TYPES = ('featmap', 'cls_token')
_STEMS = {'linear': LinearStem, 'conv': ConvStem}


def attend_in_windows(attn: nn.Module, x: Tensor, geometry: WindowGeometry, keys: Tensor | None = None) -> Tensor:
    """(B, 1 + H W, C), the class token first -> the same: ``attn``, which maps (B, N, C) to (B, N, C), inside each window of
    the map (ViTDet, arXiv 2203.16527, section 3).

    The class token is in every window, so that a window of 14 x 14 has the 197 tokens of an image of 224 x 224; what it
    becomes is the mean over the windows. Windows of one shape go through ``attn`` together. keys: (B, 1 + H W), the tokens
    that there are; windows without any do not count for the class token.
    """
    batch, _, channels = x.shape
    token = x[:, None, :1]
    sizes = [group.tokens for group in geometry.groups]
    parts = [
        part.view(batch, -1, group.window[0] * group.window[1], channels)
        for part, group in zip(window_partition(x[:, 1:], geometry).split(sizes), geometry.groups)
    ]
    parts = [torch.cat((token.expand(-1, part.shape[1], -1, -1), part), dim=2) for part in parts]
    kept: list[Tensor | None] = [None] * len(parts)
    if keys is not None:
        inside = window_partition(keys[:, 1:, None], geometry).split(sizes)
        kept = [F.pad(own.view(*part.shape[:2], -1), (1, 0), value=True) for own, part in zip(inside, parts)]
    # In training one batch, however many shapes: it has one set of statistics, over all processes and their images.
    outs = (
        _at_once(attn, parts, kept)
        if attn.training and len(parts) > 1
        else [
            attn(part.flatten(0, 1), *(() if own is None else (own.flatten(0, 1),))).view(part.shape)
            for part, own in zip(parts, kept)
        ]
    )
    token_sum, windows = 0, 0
    for out, own in zip(outs, kept):
        some = out.new_ones(out.shape[:2], dtype=torch.bool) if own is None else own[:, :, 1:].any(2)
        token_sum = token_sum + torch.where(some[..., None], out[:, :, 0], 0).sum(1, keepdim=True)
        windows = windows + some.sum(1)[:, None, None]
    merged = torch.cat([out[:, :, 1:].reshape(-1, channels) for out in outs])
    merged = window_merge(merged, geometry, (x.shape[1] - 1, 1)).flatten(1, 2)
    return torch.cat((token_sum / windows, merged), dim=1)


def _at_once(attn: nn.Module, parts: Sequence[Tensor], kept: Sequence[Tensor | None]) -> list[Tensor]:
    """Windows of several shapes, (B, windows, N, C) each, filled up to the largest for one call."""
    most = max(part.shape[2] for part in parts)
    filled = torch.cat([F.pad(part, (0, 0, 0, most - part.shape[2])) for part in parts], dim=1)
    inside = [part.new_ones(part.shape[:3], dtype=torch.bool) if own is None else own for part, own in zip(parts, kept)]
    keys = torch.cat([F.pad(own, (0, most - own.shape[2])) for own in inside], dim=1)
    out = attn(filled.flatten(0, 1), keys.flatten(0, 1)).view(filled.shape)
    return [own[:, :, : part.shape[2]] for own, part in zip(out.split([part.shape[1] for part in parts], dim=1), parts)]


Maps = tuple[int, MapRows]  # rows to ask for at a time, and what makes them


class Block(nn.Module):
    """(B, N, C) -> (B, N, C): x + attn(norm(r x)) / r, then x + mlp(norm(r x)) / r.

    With a geometry the attention stays inside its windows. ``with_maps`` returns what makes the attention maps, too. keys:
    (B, N), the tokens that there are; None for all.
    """

    def __init__(self, dim: int, attn: nn.Module, mlp_ratio: float, drop_path: float, residual_scale: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = FeedForward(dim, int(mlp_ratio * dim))
        self.drop_path = DropPath(drop_path)
        self.residual_scale = residual_scale

    def forward(
        self, x: Tensor, geometry: WindowGeometry | None = None, with_maps: bool = False, keys: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Maps]:
        r = self.residual_scale
        attended, maps = self._attend(self.norm1(x * r), geometry, with_maps, keys)
        x = x + self.drop_path(attended) / r
        x = x + self.drop_path(self.mlp(self.norm2(x * r))) / r
        return (x, maps) if with_maps else x

    def _attend(
        self, x: Tensor, geometry: WindowGeometry | None, with_maps: bool, keys: Tensor | None
    ) -> tuple[Tensor, Maps | None]:
        if with_maps:
            attended, *maps = self.attn.forward_with_maps(x, keys)
            return attended, tuple(maps)
        some = () if keys is None else (keys,)
        return self.attn(x, *some) if geometry is None else attend_in_windows(self.attn, x, geometry, *some), None


class PostNormBlock(Block):
    """(B, N, C) -> (B, N, C): x + norm(attn(r x)) / r, then x + norm(mlp(r x)) / r, as SwinV2 normalises (section 3.2
    there), on a plain ViT.

    Its norms start at zero, and have names of their own, so that weights of one kind of block cannot be taken for those of
    the other.
    """

    def __init__(self, dim: int, *args: Any, **kwargs: Any):
        super().__init__(dim, *args, **kwargs)
        del self.norm1, self.norm2
        self.post_norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.post_norm2 = nn.LayerNorm(dim, eps=1e-6)

    def forward(
        self, x: Tensor, geometry: WindowGeometry | None = None, with_maps: bool = False, keys: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Maps]:
        r = self.residual_scale
        attended, maps = self._attend(x * r, geometry, with_maps, keys)
        x = x + self.drop_path(self.post_norm1(attended)) / r
        x = x + self.drop_path(self.post_norm2(self.mlp(x * r))) / r
        return (x, maps) if with_maps else x


_BLOCK_NORMS = {'pre': Block, 'post': PostNormBlock}


def _unscaled() -> float:
    return 1.0


@MODELS.register_module()
class DeepViT(Backbone):
    """(B, in_channels, H, W), any H, W >= 1 -> a tuple with one (B, C, ceil(H / 16), ceil(W / 16)) for each i in
    ``out_indices``: the tokens after block i, without the class token unless ``out_type`` asks for it alone. The last
    block's pass the final LayerNorm.

    Images of unequal sizes that were filled up to one batch by a data preprocessor of ours (``data_preprocessors.py``) are
    computed as if each were alone: padding is no token, and outputs are zero there. (In training the BatchNorm of a
    convolutional stem does count it.)

    What Re-attention learned with one number of tokens carries over to any other (``reatten_statistics``).

    Args:
        arch: deepvit-16b, -24b, -32b, -s, -l, vit-16b, -24b, -32b (the plain baselines), or a dict with embed_dims,
            depth, re_attention and, if wanted, num_heads (12), mlp_ratio (3), stem (linear or conv), residual_scale
            (1), transform_scale (False).
        img_size: side or (height, width) of the image whose grid the learned position embedding has; for other sizes
            it is resized bicubically.
        out_indices: the blocks to return, None for the last one.
        out_type: featmap, the tokens of the patches, or cls_token, (B, C) for each block, for a classifier.
        window_size: side of the windows of tokens that the blocks attend in, an int or (height, width); None: every block
            attends to the whole map.
        global_blocks: with ``window_size``, the blocks that attend to the whole map nevertheless.
        attention: kernel of Re-attention: auto, eager or sequential.
        attn_drop_rate: dropout of the attention maps.
        reatten_statistics: how Re-attention normalises maps of another number of tokens than it was trained with, which
            travels with the weights (``layers/map_normalisation.py``): carried, so that the network computes what it
            learned; running, the official form, whose statistics hold for one number alone; scaled, the official form with
            the statistics that it would have there; image, with those of the image itself. All are the same where the
            number is the trained one, but for image.
        reatten_image_share: with image, the share of the image's own variance, the rest is of scaled.
        block_norm: pre, or post for SwinV2's res-post-norm (for comparison).
        similarity_weight: weight of the mean cosine of neighbouring blocks' attention maps in the loss (the official
            32-block recipe has 0.1). Its gradient is added in the backward pass, whatever the head, and its value is logged
            as ``similarity``. 0 costs nothing.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0 over the blocks.
        with_cp: recompute every block in the backward pass instead of storing its activations.
        frozen_stages: -1 freezes nothing, 0 stem and embeddings, n also the first n blocks.
        in_channels: channels of the image.
        init_cfg: MMEngine's initialisation config.

    Raises:
        InputError: for arguments that fit no model, in one sentence.
    """

    family = 'DeepViT'
    weights_source = 'the official ones are on Google Drive, linked in the README of github.com/zhoudaquan/dvit_repo'
    patch_size = 16
    _version = VERSION

    def __init__(
        self,
        arch: str | dict = 'deepvit-32b',
        img_size: int | tuple[int, int] = 224,
        out_indices: Sequence[int] | None = None,
        out_type: str = 'featmap',
        window_size: None | int | Window = None,
        global_blocks: Sequence[int] = (),
        attention: str = 'auto',
        attn_drop_rate: float = 0.0,
        reatten_statistics: str = 'carried',
        reatten_image_share: float = 1.0,
        block_norm: str = 'pre',
        similarity_weight: float = 0.0,
        drop_path_rate: float = 0.2,
        with_cp: bool = False,
        frozen_stages: int = -1,
        in_channels: int = 3,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        self.arch = arch = DEEPVIT.resolve(arch)
        if arch['stem'] not in _STEMS:
            raise InputError(f'unknown stem {arch["stem"]!r}; choose one of {", ".join(_STEMS)}')
        if not 0 <= arch['re_attention'] <= arch['depth']:
            raise InputError(f're_attention {arch["re_attention"]} found, but it is 0 to {arch["depth"]}, the depth')
        dim, depth = arch['embed_dims'], arch['depth']
        self.out_indices = (depth - 1,) if out_indices is None else tuple(out_indices)
        if not self.out_indices or not all(0 <= i < depth for i in self.out_indices):
            raise InputError(f'out_indices {self.out_indices} found, but this model has blocks 0 to {depth - 1}')
        self.window = None if window_size is None else to_window(window_size)
        self.global_blocks = frozenset(global_blocks)
        if not all(0 <= i < depth for i in self.global_blocks) or self.global_blocks and self.window is None:
            raise InputError(
                f'global_blocks {sorted(self.global_blocks)} found with window_size {window_size}, but they '
                f'are those of the blocks 0 to {depth - 1} that do not attend in windows; give window_size, '
                'too, or leave them out'
            )
        if out_type not in _OUT_TYPES:
            raise InputError(f'unknown out_type {out_type!r}; choose one of {", ".join(_OUT_TYPES)}')
        self.out_type = out_type
        if attention not in KERNELS:
            raise InputError(f'unknown attention {attention!r}; choose one of {", ".join(KERNELS)}')
        if reatten_statistics not in STATISTICS:
            raise InputError(f'unknown reatten_statistics {reatten_statistics!r}; choose one of {", ".join(STATISTICS)}')
        if not 0 <= reatten_image_share <= 1:
            raise InputError(f'reatten_image_share {reatten_image_share} found, but it is 0 to 1')
        if block_norm not in _BLOCK_NORMS:
            raise InputError(f'unknown block_norm {block_norm!r}; choose one of {", ".join(_BLOCK_NORMS)}')
        if similarity_weight and (depth < 2 or self.window is not None):
            raise InputError(
                f'similarity_weight {similarity_weight} found with {depth} blocks and window_size '
                f'{window_size}, but it compares the maps of all tokens of neighbouring blocks; leave it out, '
                'or window_size'
            )
        if not -1 <= frozen_stages <= depth:
            raise InputError(f'frozen_stages {frozen_stages} found, but it is -1 (nothing) to {depth} (all blocks)')
        for name, rate in (('drop_path_rate', drop_path_rate), ('attn_drop_rate', attn_drop_rate)):
            check_rate(name, rate)
        self.in_channels = in_channels
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp
        self.similarity_weight = similarity_weight
        # What the training loop multiplies its loss with; our runner tells (mixed precision, accumulated gradients).
        self.gradient_scale: Callable[[], float] = _unscaled
        sides = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        self.grid: tuple[int, int] = tuple(ceil(side / self.patch_size) for side in sides)  # type: ignore[assignment]

        self.patch_embed: nn.Module = _STEMS[arch['stem']](in_channels, dim, self.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid[0] * self.grid[1], dim))
        drop_paths = torch.linspace(0, drop_path_rate, depth, device='cpu').tolist()
        self.blocks = nn.ModuleList()
        for i in range(max(self.out_indices) + 1):
            if i >= depth - arch['re_attention']:
                attn = ReAttention(
                    dim,
                    arch['num_heads'],
                    arch['transform_scale'],
                    attention,
                    attn_drop_rate,
                    reatten_statistics,
                    reatten_image_share,
                )
            else:
                attn = SelfAttention(dim, arch['num_heads'], attn_drop_rate)
            self.blocks.append(_BLOCK_NORMS[block_norm](dim, attn, arch['mlp_ratio'], drop_paths[i], arch['residual_scale']))
        self.norm = nn.LayerNorm(dim, eps=1e-6) if depth - 1 in self.out_indices else None
        self.take_lineage(None)

        self.reset_parameters()
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        image, validity = split_validity(x, self.in_channels)
        sizes = None if validity is None else valid_sizes(validity, self.patch_size)
        return self.forward_tokens(self.patch_embed(image) if sizes is None else self.patch_embed(image, sizes), sizes)

    def forward_tokens(self, x: Tensor, sizes: list[Window] | None = None) -> tuple[Tensor, ...]:
        """The stem's (B, ceil(H / 16), ceil(W / 16), C) -> the outputs. sizes: of each image in tokens, from the top left;
        None: all fill the map."""
        batch, height, width, _ = x.shape
        keys = None if sizes is None else valid_tokens(sizes, (height, width), x.device)
        x = torch.cat((self.cls_token.expand(batch, -1, -1), x.flatten(1, 2)), dim=1)
        x = x + self._positions((height, width), sizes)
        windows = None
        if self.window is not None:
            windows = window_geometry(batch, (height, width), self.window, False, x.device)
        outs = []
        compares = bool(self.similarity_weight) and self.training and torch.is_grad_enabled()
        before, similarities = None, []
        for i, block in enumerate(self.blocks):
            geometry = None if i in self.global_blocks else windows
            if self.with_cp and torch.is_grad_enabled():
                x = self._recomputed(block, x, geometry, compares, keys)
            else:
                x = block(x, geometry, compares, *(() if keys is None else (keys,)))
            if compares:
                x, (rows, maps) = x
                if before is not None:
                    similarities.append(neighbour_similarity(before, maps, x.shape[1], rows, keys))
                before = maps
                if i == len(self.blocks) - 1:
                    x = self._regularised(x, torch.stack(similarities).mean())
            if i in self.out_indices:
                outs.append(self.output_of(x, i, (height, width), keys))
        return tuple(outs)

    def _positions(self, size: Window, sizes: list[Window] | None) -> Tensor:
        """(1 or B, 1 + H W, C) for maps of a size (H, W), or of those sizes in it, from the top left."""
        if sizes is None:
            return resize_position_embedding(self.pos_embed, self.grid, size)
        found = {}
        for height, width in set(sizes):
            if not height * width:  # a crop of padding alone
                found[height, width] = F.pad(self.pos_embed[:, :1], (0, 0, 0, size[0] * size[1]))
                continue
            own = resize_position_embedding(self.pos_embed, self.grid, (height, width))
            tokens = own[:, 1:].unflatten(1, (height, width))
            tokens = F.pad(tokens, (0, 0, 0, size[1] - width, 0, size[0] - height))
            found[height, width] = torch.cat((own[:, :1], tokens.flatten(1, 2)), dim=1)
        return torch.cat([found[own] for own in sizes])

    def output_of(self, x: Tensor, block: int, size: Window, keys: Tensor | None = None) -> Tensor:
        """(B, 1 + H W, C), the tokens after a block, and (H, W) -> its output, as ``out_type`` says. keys: (B, 1 + H W), the
        tokens that there are; None for all."""
        out = self.norm(x) if block == self.arch['depth'] - 1 else x
        if keys is not None:
            out = out * keys[..., None]
        if self.out_type == 'cls_token':
            return out[:, 0]
        return out[:, 1:].transpose(1, 2).unflatten(2, size).contiguous()

    @staticmethod
    def _recomputed(block: nn.Module, x: Tensor, geometry: WindowGeometry | None, with_maps: bool, keys: Tensor | None) -> Any:
        return checkpoint(
            block, x, geometry, with_maps, keys, use_reentrant=False, context_fn=lambda: (nullcontext(), statistics_kept(block))
        )

    def _regularised(self, x: Tensor, similarity: Tensor) -> Tensor:
        MessageHub.get_current_instance().update_scalar('train/similarity', similarity.detach())
        return with_loss(x, similarity, self.similarity_weight, lambda: self.gradient_scale())

    def reset_parameters(self) -> None:
        """The official initialisation: linear weights, class token and position embedding N(0, 0.02) truncated, linear
        biases zero; norms of post-norm blocks zero, as in SwinV2."""
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, PostNormBlock):
                for norm in (module.post_norm1, module.post_norm2):
                    nn.init.zeros_(norm.weight)
                    nn.init.zeros_(norm.bias)

    def transformer_blocks(self) -> list[nn.Module]:
        """Its blocks, from the first to the last."""
        return list(self.blocks)

    def get_layer_depth(self, name: str, prefix: str = '') -> tuple[int, int]:
        """Parameter name -> (depth, number of depths), for layer-wise learning rates: stem and embeddings 0, block i
        i + 1, and all else (final norm, heads: what does not start with ``prefix``) the last depth."""
        num_depths = self.arch['depth'] + 2
        if not name.startswith(prefix):
            return num_depths - 1, num_depths
        parts = name[len(prefix) :].split('.')
        if parts[0] in ('patch_embed', 'cls_token', 'pos_embed'):
            return 0, num_depths
        return (int(parts[1]) + 1 if parts[0] == 'blocks' else num_depths - 1), num_depths

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that take no weight decay: embeddings, norms and biases."""
        return {
            name for name, parameter in self.named_parameters() if parameter.ndim <= 1 or name in ('cls_token', 'pos_embed')
        }

    def train(self, mode: bool = True) -> 'DeepViT':
        """Training mode for all but the frozen blocks."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        return [] if self.frozen_stages < 0 else [self.patch_embed, *self.blocks[: self.frozen_stages]]

    def _freeze(self) -> None:
        for module in self._frozen_modules():
            module.eval()
            module.requires_grad_(False)
        if self.frozen_stages >= 0:
            self.cls_token.requires_grad_(False)
            self.pos_embed.requires_grad_(False)

    def _re_attentions(self) -> dict[int, ReAttention]:
        return {i: block.attn for i, block in enumerate(self.blocks) if isinstance(block.attn, ReAttention)}

    @property
    def lineage(self) -> GridLineage:
        """The grid of its position embedding, and the tokens that each Re-attention's statistics are kept for."""
        tokens = {i: attn.token_law.reference for i, attn in self._re_attentions().items()}
        return GridLineage(self.grid, tuple(tokens.get(i, 0) for i in range(len(self.blocks))))

    def _own_tokens(self, block: int) -> int:
        """What a block attends to at once in an image of ``img_size``, the class token among it."""
        within = self.grid if self.window is None or block in self.global_blocks else self.window
        return 1 + min(within[0], self.grid[0]) * min(within[1], self.grid[1])

    def completed_lineage(self, weights: State, lineage: GridLineage | None) -> GridLineage | None:
        """Weights of before grids were recorded are taken to have this grid if they have as many positions, else a square one,
        and to have learned their statistics with all of it; those of before tokens were recorded, with this model's windows,
        if they have its grid."""
        embedding = weights.get('pos_embed')
        if embedding is None or embedding.ndim != 3:
            return lineage
        positions = embedding.shape[1] - 1
        side = isqrt(max(positions, 0))
        grid = lineage.grid if lineage else self.grid if positions == self.grid[0] * self.grid[1] else (side, side)
        if grid[0] * grid[1] != positions or not positions:
            what = 'grid of {}x{}'.format(*grid) if lineage else 'square grid'
            raise InputError(
                f"its position embedding has {positions} positions, which is no {what}, and the model's is "
                f'{self.grid}; set img_size to the size the checkpoint was trained with'
            )
        known = lineage.tokens if lineage else ()
        tokens = []
        for i in range(len(self.blocks)):
            guess = self._own_tokens(i) if lineage and grid == self.grid else 1 + positions
            tokens.append(0 if i not in self._re_attentions() else known[i] if i < len(known) and known[i] else guess)
        return GridLineage(grid, tuple(tokens))

    def take_lineage(self, lineage: GridLineage | None) -> None:
        """The tokens that the statistics were learned with become the ones that they are kept for."""
        for i, attn in self._re_attentions().items():
            known = lineage.tokens[i] if lineage and i < len(lineage.tokens) else 0
            attn.token_law.reference = known or self._own_tokens(i)

    def follow(self, other: 'DeepViT') -> None:
        """Keep statistics for what another model of the same config keeps them for."""
        self.take_lineage(other.lineage)

    def fit_positions(self, weights: State, lineage: GridLineage | None, exact: bool) -> tuple[State, list[str]]:
        """The position embedding resized bicubically from the grid that it was learned with to this one. Weights of before
        exponents were learned have the usual ones."""
        weights = dict(weights)
        for key in [key for key in weights if key.endswith('.attn.var_norm.weight')]:
            law = key.replace('var_norm.weight', 'token_law')
            heads = weights[key]
            weights.setdefault(f'{law}.tokens', heads.new_zeros(3))
            weights.setdefault(f'{law}.moments', heads.new_zeros(2, *heads.shape))
        if lineage is None or lineage.grid == self.grid:
            return weights, []
        grid = lineage.grid
        resized = resize_position_embedding(weights['pos_embed'], grid, self.grid)
        return {**weights, 'pos_embed': resized}, [
            f'position embedding resized from {grid[0]}x{grid[1]} to {self.grid[0]}x{self.grid[1]}'
        ]

    def may_be_new(self, key: str) -> bool:
        """The final norm."""
        return key.startswith('norm.')

    def leaves_out(self, key: str) -> bool:
        """Blocks after the last output, the final norm where the last block is not returned, and what pretraining puts for
        masked patches."""
        block = re.match(r'blocks\.(\d+)\.', key)
        return (
            key == 'mask_token'
            or key.startswith('norm.')
            and self.norm is None
            or bool(block)
            and len(self.blocks) <= int(block[1]) < self.arch['depth']
        )
