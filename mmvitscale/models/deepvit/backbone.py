"""DeepViT for dense prediction (Zhou et al. 2021, DeepViT: Towards Deeper Vision Transformer, arXiv 2103.11886)."""

from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import MessageHub
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmvitscale.errors import InputError
from mmvitscale.models.deepvit import kernels  # noqa: F401  (they join KERNELS)
from mmvitscale.models.deepvit.checkpoint_policy import DeepViTCheckpointPolicy
from mmvitscale.models.deepvit.position_embedding import resize_position_embedding
from mmvitscale.models.deepvit.re_attention import KERNELS, MapRows, ReAttention, SelfAttention
from mmvitscale.models.deepvit.re_attention_norm import frozen_statistics
from mmvitscale.models.deepvit.similarity_loss import neighbour_similarity, with_loss
from mmvitscale.models.deepvit.variants import DEEPVIT
from mmvitscale.models.deepvit.windowed_attention import attend_in_windows
from mmvitscale.models.layers.drop_path import DropPath, check_rate, drop_path_rates
from mmvitscale.models.layers.initialisation import truncated_normal_
from mmvitscale.models.layers.mlp import MLP
from mmvitscale.models.layers.padding import split_validity, valid_sizes, valid_tokens
from mmvitscale.models.layers.patch_embed import ConvStem, LinearStem
from mmvitscale.models.swin_v2.windows import Window, WindowGeometry, to_window, window_geometry
from mmvitscale.registry import MODELS
from mmvitscale.utils.choices import STATISTICS
from mmvitscale.utils.renamed_arguments import renamed_arguments

_OUT_TYPES = ('featmap', 'cls_token')
_STEMS = {'linear': LinearStem, 'conv': ConvStem}


Maps = tuple[int, MapRows]  # rows to compute at a time, and what computes them


class Block(nn.Module):
    """(B, N, C) -> (B, N, C): x + attn(norm(r x)) / r, then x + mlp(norm(r x)) / r.

    With a geometry the attention stays inside its windows. ``with_maps`` returns what computes the attention maps, too.
    token_mask: (B, N), True for tokens, False for padding; None for all tokens.
    """

    def __init__(self, dim: int, attn: nn.Module, mlp_ratio: float, drop_path: float, residual_scale: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, int(mlp_ratio * dim))
        self.drop_path = DropPath(drop_path)
        self.residual_scale = residual_scale

    def forward(
        self, x: Tensor, geometry: WindowGeometry | None = None, with_maps: bool = False, token_mask: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Maps]:
        r = self.residual_scale
        attended, maps = self._attend(self.norm1(x * r), geometry, with_maps, token_mask)
        x = x + self.drop_path(attended) / r
        x = x + self.drop_path(self.mlp(self.norm2(x * r))) / r
        return (x, maps) if with_maps else x

    def _attend(
        self, x: Tensor, geometry: WindowGeometry | None, with_maps: bool, token_mask: Tensor | None
    ) -> tuple[Tensor, Maps | None]:
        if with_maps:
            attended, *maps = self.attn.forward_with_maps(x, token_mask)
            return attended, tuple(maps)
        some = () if token_mask is None else (token_mask,)
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
        self, x: Tensor, geometry: WindowGeometry | None = None, with_maps: bool = False, token_mask: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Maps]:
        r = self.residual_scale
        attended, maps = self._attend(x * r, geometry, with_maps, token_mask)
        x = x + self.drop_path(self.post_norm1(attended)) / r
        x = x + self.drop_path(self.post_norm2(self.mlp(x * r))) / r
        return (x, maps) if with_maps else x


_BLOCK_NORMS = {'pre': Block, 'post': PostNormBlock}


def _unscaled() -> float:
    return 1.0


@MODELS.register_module()
class DeepViT(DeepViTCheckpointPolicy):
    """(B, in_channels, H, W), any H, W >= 1 -> a tuple with one (B, C, ceil(H / 16), ceil(W / 16)) for each i in
    ``out_indices``: the tokens after block i, without the class token unless ``out_type`` requires it alone. The last
    block's pass the final LayerNorm.

    Images of unequal sizes that were filled up to one batch by a data preprocessor of ours (``data_preprocessors.py``) are
    computed as if each were alone: padding is no token, and outputs are zero there. (In training the BatchNorm of a
    convolutional stem does count it.)

    What Re-attention trained with one number of tokens holds for any other (``reatten_statistics``).

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
        attention: the kernel, auto, eager (the formula as it stands, which alone has second derivatives) or sequential (without
            attention maps).
        attn_drop_rate: dropout of the attention maps.
        reatten_statistics: how Re-attention normalises maps of another number of tokens than it was trained with, which
            travels with the weights (``re_attention_norm.py``): token_invariant, so that the network computes what it
            learned; running, the official form, whose statistics hold for one number alone; scaled, the official form with
            the statistics that it would have there; image, with those of the image itself. All are the same where the
            number is the trained one, but for image.
        reatten_image_share: with image, the share of the image's own variance, the rest is of scaled.
        block_norm: pre, or post for SwinV2's res-post-norm (for comparison).
        similarity_loss_weight: weight of the mean cosine of neighbouring blocks' attention maps in the loss (the official
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

    patch_size = 16

    @renamed_arguments({'reatten_statistics': {'carried': 'token_invariant'}}, similarity_weight='similarity_loss_weight')
    def __init__(
        self,
        arch: str | dict[str, Any] = 'deepvit-32b',
        img_size: int | tuple[int, int] = 224,
        out_indices: Sequence[int] | None = None,
        out_type: str = 'featmap',
        window_size: None | int | Window = None,
        global_blocks: Sequence[int] = (),
        attention: str = 'auto',
        attn_drop_rate: float = 0.0,
        reatten_statistics: str = 'token_invariant',
        reatten_image_share: float = 1.0,
        block_norm: str = 'pre',
        similarity_loss_weight: float = 0.0,
        drop_path_rate: float = 0.2,
        with_cp: bool = False,
        frozen_stages: int = -1,
        in_channels: int = 3,
        init_cfg: dict[str, Any] | None = None,
    ):
        super().__init__(init_cfg)
        self.arch = DEEPVIT.resolve(arch)
        depth = self.arch['depth']
        self.out_indices = (depth - 1,) if out_indices is None else tuple(out_indices)
        self.out_type = out_type
        self.window = None if window_size is None else to_window(window_size)
        self.global_blocks = frozenset(global_blocks)
        self.in_channels = in_channels
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp
        self.similarity_loss_weight = similarity_loss_weight
        # What the training loop multiplies its loss with, set by our runner (mixed precision, gradient accumulation).
        self.gradient_scale: Callable[[], float] = _unscaled
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.grid = (ceil(height / self.patch_size), ceil(width / self.patch_size))
        self._check_arguments(attention, reatten_statistics, reatten_image_share, block_norm)
        check_rate('drop_path_rate', drop_path_rate)
        check_rate('attn_drop_rate', attn_drop_rate)
        statistics = dict(statistics=reatten_statistics, image_share=reatten_image_share)
        self._build(attention, attn_drop_rate, statistics, block_norm, drop_path_rate)

    def _check_arguments(self, attention: str, statistics: str, image_share: float, block_norm: str) -> None:
        """Raise InputError for what fits no model."""
        depth, mixing = self.arch['depth'], self.arch['re_attention']
        choices: tuple[tuple[str, str, Collection[str]], ...] = (
            ('stem', self.arch['stem'], _STEMS),
            ('out_type', self.out_type, _OUT_TYPES),
            ('attention', attention, sorted(KERNELS)),
            ('reatten_statistics', statistics, STATISTICS),
            ('block_norm', block_norm, _BLOCK_NORMS),
        )
        for name, value, known in choices:
            if value not in known:
                raise InputError(f'unknown {name} {value!r}; choose one of {", ".join(known)}')
        if not 0 <= mixing <= depth:
            raise InputError(f're_attention {mixing} found, but it is 0 to {depth}, the depth')
        if not self.out_indices or not all(0 <= i < depth for i in self.out_indices):
            raise InputError(f'out_indices {self.out_indices} found, but this model has blocks 0 to {depth - 1}')
        if not all(0 <= i < depth for i in self.global_blocks) or (self.global_blocks and self.window is None):
            raise InputError(
                f'global_blocks {sorted(self.global_blocks)} found with window_size {self.window}, but they '
                f'are those of the blocks 0 to {depth - 1} that do not attend in windows; give window_size, '
                'too, or leave them out'
            )
        if not 0 <= image_share <= 1:
            raise InputError(f'reatten_image_share {image_share} found, but it is 0 to 1')
        if self.similarity_loss_weight and (depth < 2 or self.window is not None):
            raise InputError(
                f'similarity_loss_weight {self.similarity_loss_weight} found with {depth} blocks and window_size '
                f'{self.window}, but it compares the maps of all tokens of neighbouring blocks; leave it out, '
                'or window_size'
            )
        if not -1 <= self.frozen_stages <= depth:
            raise InputError(f'frozen_stages {self.frozen_stages} found, but it is -1 (nothing) to {depth} (all blocks)')

    def _build(
        self, attention: str, attn_drop_rate: float, statistics: dict[str, Any], block_norm: str, drop_path_rate: float
    ) -> None:
        arch, dim, heads = self.arch, self.arch['embed_dims'], self.arch['num_heads']
        self.patch_embed: nn.Module = _STEMS[arch['stem']](self.in_channels, dim, self.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid[0] * self.grid[1], dim))
        drop_paths = drop_path_rates(drop_path_rate, arch['depth'])
        self.blocks = nn.ModuleList()
        for i in range(max(self.out_indices) + 1):
            attn: nn.Module
            if i >= arch['depth'] - arch['re_attention']:
                attn = ReAttention(dim, heads, arch['transform_scale'], attention, attn_drop_rate, **statistics)
            else:
                attn = SelfAttention(dim, heads, attn_drop_rate, attention)
            self.blocks.append(_BLOCK_NORMS[block_norm](dim, attn, arch['mlp_ratio'], drop_paths[i], arch['residual_scale']))
        self.norm = nn.LayerNorm(dim, eps=1e-6) if arch['depth'] - 1 in self.out_indices else None
        self.apply_metadata(None)
        self.reset_parameters()
        self._freeze()
        self._end_architecture()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        image, validity = split_validity(x, self.in_channels)
        sizes = None if validity is None else valid_sizes(validity, self.patch_size)
        return self.forward_tokens(self.patch_embed(image) if sizes is None else self.patch_embed(image, sizes), sizes)

    def forward_tokens(self, x: Tensor, sizes: list[Window] | None = None) -> tuple[Tensor, ...]:
        """The stem's (B, ceil(H / 16), ceil(W / 16), C) -> the outputs. sizes: of each image in tokens, from the top left;
        None: all fill the map."""
        batch, height, width, _ = x.shape
        token_mask = None if sizes is None else valid_tokens(sizes, (height, width), x.device)
        x = torch.cat((self.cls_token.expand(batch, -1, -1), x.flatten(1, 2)), dim=1)
        x = x + self._positions((height, width), sizes)
        windows = None
        if self.window is not None:
            windows = window_geometry(batch, (height, width), self.window, False, x.device)
        outs = []
        compares = bool(self.similarity_loss_weight) and self.training and torch.is_grad_enabled()
        before, similarities = None, []
        for i, block in enumerate(self.blocks):
            geometry = None if i in self.global_blocks else windows
            if self.with_cp and torch.is_grad_enabled():
                x = self._recomputed(block, x, geometry, compares, token_mask)
            else:
                x = block(x, geometry, compares, *(() if token_mask is None else (token_mask,)))
            if compares:
                x, (rows, maps) = x
                if before is not None:
                    similarities.append(neighbour_similarity(before, maps, x.shape[1], rows, token_mask))
                before = maps
                if i == len(self.blocks) - 1:
                    x = self._regularised(x, torch.stack(similarities).mean())
            if i in self.out_indices:
                outs.append(self.output_of(x, i, (height, width), token_mask))
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

    def output_of(self, x: Tensor, block: int, size: Window, token_mask: Tensor | None = None) -> Tensor:
        """(B, 1 + H W, C), the tokens after a block, and (H, W) -> its output, as ``out_type`` says. token_mask:
        (B, 1 + H W), True for tokens, False for padding; None for all tokens."""
        out = self.norm(x) if block == self.arch['depth'] - 1 else x
        if token_mask is not None:
            out = out * token_mask[..., None]
        if self.out_type == 'cls_token':
            return out[:, 0]
        return out[:, 1:].transpose(1, 2).unflatten(2, size).contiguous()

    @staticmethod
    def _recomputed(
        block: nn.Module, x: Tensor, geometry: WindowGeometry | None, with_maps: bool, token_mask: Tensor | None
    ) -> Any:
        """The block with activation checkpointing."""
        arguments = (x, geometry, with_maps, token_mask)
        return checkpoint(block, *arguments, use_reentrant=False, context_fn=lambda: (nullcontext(), frozen_statistics(block)))

    def _regularised(self, x: Tensor, similarity: Tensor) -> Tensor:
        MessageHub.get_current_instance().update_scalar('train/similarity', similarity.detach())
        return with_loss(x, similarity, self.similarity_loss_weight, lambda: self.gradient_scale())

    def reset_parameters(self) -> None:
        """The official initialisation: linear weights, class token and position embedding N(0, 0.02) truncated, linear
        biases zero; norms of post-norm blocks zero, as in SwinV2."""
        truncated_normal_(self.cls_token)
        truncated_normal_(self.pos_embed)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                truncated_normal_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, PostNormBlock):
                for norm in (module.post_norm1, module.post_norm2):
                    nn.init.zeros_(norm.weight)
                    nn.init.zeros_(norm.bias)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and files: without what ties the model to the training loop that it is in."""
        return {**super().__getstate__(), 'gradient_scale': _unscaled}

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
