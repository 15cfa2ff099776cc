"""SwinTransformerV2 for dense prediction (Liu et al. 2022, Swin Transformer V2, arXiv 2111.09883)."""

import logging
import re
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...checkpoints.convert import State
from ...checkpoints.lineage import WindowLineage, check_agreement, reference_of_name, show_windows
from ...errors import InputError
from ...registry import MODELS
from ..layers.drop_path import DropPath, check_rate
from ..layers.feed_forward import FeedForward
from ..layers.patch_embed import PatchEmbed, PatchMerging
from ..layers.position_bias import POSITION_BIASES, BiasTable, resize_table
from ..layers.window_attention import KERNELS, WindowAttention
from ..layers.windows import Window, WindowGeometry, to_window, window_geometry, window_merge, window_partition
from .backbone import Backbone
from .variants import SWIN_V2

WindowSize = int | Sequence[int]


def per_stage(value: Any, stages: int, name: str) -> list:
    """One value or a sequence of one per stage -> a list of ``stages`` values. A tuple or list is a sequence."""
    if not isinstance(value, (list, tuple)):
        return [value] * stages
    if len(value) != stages:
        raise InputError(
            f'{name} has {len(value)} values, {list(value)}, for {stages} stages; give one value for all '
            f'stages or a list of {stages}'
        )
    return list(value)


class SwinBlockV2(nn.Module):
    """(B, H, W, C) -> (B, H, W, C): window attention, then MLP, each normalised before it is added (section 3.2)."""

    def __init__(self, dim: int, attn: nn.Module, mlp_ratio: float, drop_path: float, extra_norm: bool):
        super().__init__()
        self.attn = attn
        self.norm1 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, int(mlp_ratio * dim))
        self.norm2 = nn.LayerNorm(dim)
        self.extra_norm = nn.LayerNorm(dim) if extra_norm else None
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, geometry: WindowGeometry, reference: Window) -> Tensor:
        attended = self.attn(window_partition(x, geometry), geometry, reference)
        x = x + self.drop_path(self.norm1(window_merge(attended, geometry, x.shape[1:3])))
        x = x + self.drop_path(self.norm2(self.mlp(x)))
        return x if self.extra_norm is None else self.extra_norm(x)


class PreNormBlock(nn.Module):
    """(B, H, W, C) -> (B, H, W, C): window attention, then MLP, each of normalised tokens (SwinV1, the paper's comparison).

    Its norms have names of their own, so that weights of one kind of block cannot be taken for those of the other.
    """

    def __init__(self, dim: int, attn: nn.Module, mlp_ratio: float, drop_path: float, extra_norm: bool):
        super().__init__()
        self.pre_norm1 = nn.LayerNorm(dim)
        self.attn = attn
        self.pre_norm2 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, int(mlp_ratio * dim))
        self.extra_norm = nn.LayerNorm(dim) if extra_norm else None
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, geometry: WindowGeometry, reference: Window) -> Tensor:
        attended = self.attn(window_partition(self.pre_norm1(x), geometry), geometry, reference)
        x = x + self.drop_path(window_merge(attended, geometry, x.shape[1:3]))
        x = x + self.drop_path(self.mlp(self.pre_norm2(x)))
        return x if self.extra_norm is None else self.extra_norm(x)


BLOCK_NORMS = {'post': SwinBlockV2, 'pre': PreNormBlock}
SIMILARITIES = ('cosine', 'dot_product')


def reset_blocks(module: nn.Module) -> None:
    """The paper's initialisation of all inside: linear weights N(0, 0.02) truncated, biases zero, and both norms of a
    post-norm block zero, so that it starts as the identity (section 3.2)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, SwinBlockV2):
            for norm in (part.norm1, part.norm2):
                nn.init.zeros_(norm.weight)
                nn.init.zeros_(norm.bias)


def names_without_decay(module: nn.Module) -> set[str]:
    """Names of the parameters inside that take no weight decay: position biases, logit scales, norms and biases."""
    return {
        name
        for name, parameter in module.named_parameters()
        if parameter.ndim <= 1 or 'position_bias' in name or 'logit_scale' in name
    }


class Stage(nn.Module):
    """(B, H, W, C) -> (B, H, W, C), or (B, ceil(H / 2), ceil(W / 2), 2 C) where it starts with patch merging.

    Every second block is shifted. ``window`` is the side of its windows, ``built_window`` what it was at first,
    ``reference`` the window that the position bias was first learned with: plain values (``Backbone.lineage`` saves them).
    ``reference_origin`` says who told the reference: 'config', 'checkpoint', 'window_size' where nobody did, or 'assumed'
    where weights were loaded and nobody did.
    """

    def __init__(
        self, blocks: Sequence[nn.Module], downsample: nn.Module | None, window: Window, reference: Window | None, with_cp: bool
    ):
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)
        self.window = self.built_window = window
        self.reference = reference or window
        self.reference_origin = 'config' if reference else 'window_size'
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        if self.downsample is not None:
            x = self.downsample(x)
        geometries = [
            window_geometry(x.shape[0], tuple(x.shape[1:3]), self.window, shifted, x.device) for shifted in (False, True)
        ]
        for i, block in enumerate(self.blocks):
            if self.with_cp and torch.is_grad_enabled():
                x = checkpoint(block, x, geometries[i % 2], self.reference, use_reentrant=False)
            else:
                x = block(x, geometries[i % 2], self.reference)
        return x

    def set_window(self, window: Window) -> None:
        """Change the window; the reference window, and so the learned bias of an offset, stays."""
        self.window = window
        for block in self.blocks:
            block.attn.set_window(window)


@MODELS.register_module()
class SwinTransformerV2(Backbone):
    """(B, in_channels, H, W), any H, W >= 1 -> a tuple with one (B, C_i, ceil(H / 4 / 2^i), ceil(W / 4 / 2^i)) for
    each i in ``out_indices``, where C_i = embed_dims * 2^i.

    Args:
        arch: tiny, small, base, large, huge, giant, or a dict with embed_dims, depths, num_heads and, if wanted,
            mlp_ratio (4) and extra_norm_every (0: never; a LayerNorm on the main branch after every n-th block).
        window_size: side of the attention windows in tokens, an int for all stages or a list of one per stage, each
            an int or (height, width). A map smaller than its window is one window.
        pretrained_window_sizes: the reference windows: those the position bias was first learned with, in the form
            of window_size. None: those found in the checkpoint that is loaded, else window_size.
        position_bias: log_cpb (the paper's), linear_cpb or table.
        attention: the kernel, auto, eager, flex (FlexAttention on GPUs, as auto elsewhere), fused or sequential (least
            memory); one for all stages or a list of one per stage.
        block_norm: post (res-post-norm, the paper's) or pre (SwinV1's blocks and patch merging, for comparison).
        similarity: cosine (the paper's) or dot_product (SwinV1's, for comparison).
        out_indices: the stages to return, None for all; stages after the last of them are not built.
        out_norm: LayerNorm on each output; False gives each stage's raw output.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0 over the blocks.
        with_cp: recompute every block in the backward pass instead of storing its activations.
        frozen_stages: -1 freezes nothing, 0 the patch embedding, n also the first n stages and their outputs' norms.
        in_channels: channels of the image.
        init_cfg: MMEngine's initialisation config.

    Raises:
        InputError: for arguments that fit no model, in one sentence.
    """

    family = 'SwinV2'
    weights_source = 'the public ones are listed in the README of github.com/microsoft/Swin-Transformer'

    def __init__(
        self,
        arch: str | dict = 'tiny',
        window_size: int | Sequence[WindowSize] = 16,
        pretrained_window_sizes: None | int | Sequence[WindowSize] = None,
        position_bias: str = 'log_cpb',
        attention: str | Sequence[str] = 'auto',
        block_norm: str = 'post',
        similarity: str = 'cosine',
        out_indices: Sequence[int] | None = None,
        out_norm: bool = True,
        drop_path_rate: float = 0.2,
        with_cp: bool = False,
        frozen_stages: int = -1,
        in_channels: int = 3,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        self.arch = arch = SWIN_V2.resolve(arch)
        if len(arch['depths']) != len(arch['num_heads']):
            raise InputError(
                f'a SwinV2 arch has one depth and one number of heads per stage, but depths {arch["depths"]} '
                f'and num_heads {arch["num_heads"]} differ in length'
            )
        self.depths: tuple[int, ...] = arch['depths']
        stages = len(self.depths)
        self.out_indices = tuple(range(stages) if out_indices is None else out_indices)
        if not self.out_indices or not all(0 <= i < stages for i in self.out_indices):
            raise InputError(f'out_indices {self.out_indices} found, but this model has stages 0 to {stages - 1}')
        if not -1 <= frozen_stages <= stages:
            raise InputError(f'frozen_stages {frozen_stages} found, but it is -1 (nothing) to {stages} (all stages)')
        if position_bias not in POSITION_BIASES:
            raise InputError(f'unknown position_bias {position_bias!r}; choose one of {", ".join(POSITION_BIASES)}')
        for name, value, known in (('block_norm', block_norm, BLOCK_NORMS), ('similarity', similarity, SIMILARITIES)):
            if value not in known:
                raise InputError(f'unknown {name} {value!r}; choose one of {", ".join(known)}')
        check_rate('drop_path_rate', drop_path_rate)
        kernels = per_stage(attention, stages, 'attention')
        if not set(kernels) <= set(KERNELS):
            raise InputError(
                f'unknown attention {attention!r}; choose from {", ".join(KERNELS)}, one for all stages '
                'or a list of one per stage'
            )
        windows = self._windows(window_size, 'window_size')
        references = [None] * stages
        if pretrained_window_sizes is not None:
            references = self._windows(pretrained_window_sizes, 'pretrained_window_sizes')

        self.position_bias = position_bias
        self.frozen_stages = frozen_stages
        dims = [arch['embed_dims'] * 2**i for i in range(stages)]
        drop_paths = iter(torch.linspace(0, drop_path_rate, sum(self.depths), device='cpu').tolist())
        extra_norm_every = arch['extra_norm_every']

        self.patch_embed = PatchEmbed(in_channels, dims[0])
        self.stages = nn.ModuleList()
        for i in range(max(self.out_indices) + 1):
            blocks = []
            for block in range(self.depths[i]):
                bias = POSITION_BIASES[position_bias](arch['num_heads'][i], windows[i])
                attn = WindowAttention(dims[i], arch['num_heads'][i], bias, kernels[i], similarity)
                extra_norm = extra_norm_every > 0 and (block + 1) % extra_norm_every == 0
                blocks.append(BLOCK_NORMS[block_norm](dims[i], attn, arch['mlp_ratio'], next(drop_paths), extra_norm))
            downsample = PatchMerging(dims[i - 1], block_norm == 'pre') if i else None
            self.stages.append(Stage(blocks, downsample, windows[i], references[i], with_cp))
        self.out_norms = nn.ModuleDict({str(i): nn.LayerNorm(dims[i]) if out_norm else nn.Identity() for i in self.out_indices})

        self.reset_parameters()
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.forward_tokens(self.patch_embed(x))

    def forward_tokens(self, x: Tensor) -> tuple[Tensor, ...]:
        """The patch embedding's (B, ceil(H / 4), ceil(W / 4), C) -> the outputs."""
        outs = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                outs.append(self.out_norms[str(i)](x).permute(0, 3, 1, 2).contiguous())
        return tuple(outs)

    def set_window_size(self, window_size: int | Sequence[WindowSize]) -> None:
        """Change the windows, in the form of the constructor's argument, at any time, and keep the function that was
        learned: the bias of an offset does not move (a table is read bicubically). No parameter changes."""
        for stage, window in zip(self.stages, self._windows(window_size, 'window_size')):
            stage.set_window(window)

    @property
    def lineage(self) -> WindowLineage:
        """The kind of its position bias, and the reference windows and windows as they stand now."""
        table = self.position_bias == 'table'
        return WindowLineage(
            self.position_bias,
            tuple(None if table else stage.reference for stage in self.stages),
            tuple(stage.window for stage in self.stages),
        )

    def check_lineage(self, lineage: WindowLineage) -> None:
        """Raise InputError if the weights' position bias is of another kind, or was learned with other windows, than the
        config says."""
        if lineage.position_bias not in (None, self.position_bias):
            raise InputError(
                f'its position bias is of the kind {lineage.position_bias}, but the config says position_bias '
                f'{self.position_bias}, another function of the offset; make them equal'
            )
        if self.position_bias != 'table':
            given = [stage.reference if stage.reference_origin == 'config' else None for stage in self.stages]
            check_agreement(lineage.references, given, 'pretrained_window_sizes')

    def take_lineage(self, lineage: WindowLineage | None) -> None:
        """Take the reference windows of weights that are being loaded."""
        references = lineage.references if lineage else [None] * len(self.stages)
        for stage, reference in zip(self.stages, references):
            if self.position_bias == 'table' or stage.reference_origin == 'config':
                continue
            stage.reference = reference or stage.built_window
            stage.reference_origin = 'checkpoint' if reference else 'assumed'

    def warn_of_assumptions(self, name: str) -> None:
        """Say what is assumed where neither the weights nor the config told the reference windows, and what the name of
        the file tells of them."""
        assumed = {i: stage.reference for i, stage in enumerate(self.stages) if stage.reference_origin == 'assumed'}
        if not assumed:
            return
        proposal = reference_of_name(name)
        advice = (
            f'its name speaks for pretrained_window_sizes={proposal}: set it'
            if proposal
            else 'set pretrained_window_sizes, e.g. 8 for *_window8_256'
        )
        print_log(
            f'{name} does not say with which windows its position biases were learned, and neither does the config: '
            f'window_size is assumed, {show_windows(list(assumed.values()))} in the stages {list(assumed)}. If that '
            f'is not so, the biases come out wrong; {advice}',
            'current',
            level=logging.WARNING,
        )

    def fit_positions(self, weights: State, lineage: WindowLineage | None, exact: bool) -> tuple[State, list[str]]:
        """Bias tables resized bicubically to the windows of their stages, as is the practice for fine-tuning. Those of the
        shape that the model's have already, and all where weights go on being trained or are tested, stay as they are: they
        are read bicubically."""
        out, notes = dict(weights), []
        for key, weight in weights.items():
            own = self._table(key)
            if own is not None and own.fits(weight) and weight.shape != own.table.shape and not exact:
                out[key] = resize_table(weight, own.window)
        resized = sum(out[key] is not weights[key] for key in weights)
        if resized:
            notes.append(f'{resized} bias tables resized to the windows {show_windows(self.lineage.windows)}')
        return out, notes

    def takes_any_size(self, key: str, weight: Tensor) -> bool:
        """Bias tables of any window."""
        own = self._table(key)
        return own is not None and own.fits(weight)

    def _table(self, key: str) -> BiasTable | None:
        """The bias table with this name, if there is one."""
        match = re.fullmatch(r'stages\.(\d+)\.blocks\.(\d+)\.attn\.position_bias\.table', key)
        if match is None or self.position_bias != 'table' or int(match[1]) >= len(self.stages):
            return None
        blocks = self.stages[int(match[1])].blocks
        return blocks[int(match[2])].attn.position_bias if int(match[2]) < len(blocks) else None

    def may_be_new(self, key: str) -> bool:
        """Norms of outputs that pretraining does not have."""
        return key.startswith('out_norms.')

    def leaves_out(self, key: str) -> bool:
        """Stages after the last output, norms of stages that are not returned, and what pretraining puts for masked
        patches."""
        stage = re.match(r'stages\.(\d+)\.', key)
        unbuilt = bool(stage) and len(self.stages) <= int(stage[1]) < len(self.depths)
        return unbuilt or key == 'mask_token' or key.startswith('out_norms.')

    def follow(self, other: 'SwinTransformerV2') -> None:
        """Take the windows and the reference windows of another backbone of the same arch."""
        for stage, model in zip(self.stages, other.stages):
            stage.set_window(model.window)
            stage.reference, stage.reference_origin = model.reference, model.reference_origin

    def reset_parameters(self) -> None:
        """The paper's initialisation."""
        reset_blocks(self)

    def transformer_blocks(self) -> list[nn.Module]:
        """Its blocks, from the first to the last."""
        return [block for stage in self.stages for block in stage.blocks]

    def get_layer_depth(self, name: str, prefix: str = '') -> tuple[int, int]:
        """Parameter name -> (depth, number of depths), for layer-wise learning rates.

        The patch embedding is 0, block j of all blocks j + 1, patch merging as the block before it, and all else
        (output norms, heads: what does not start with ``prefix``) the last depth.
        """
        num_depths = sum(self.depths) + 2
        if not name.startswith(prefix):
            return num_depths - 1, num_depths
        parts = name[len(prefix) :].split('.')
        if parts[0] == 'patch_embed':
            return 0, num_depths
        if parts[0] == 'stages':
            before = sum(self.depths[: int(parts[1])])
            return (before + int(parts[3]) + 1 if parts[2] == 'blocks' else before), num_depths
        return num_depths - 1, num_depths

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that take no weight decay: position biases, logit scales, norms and biases."""
        return names_without_decay(self)

    def train(self, mode: bool = True) -> 'SwinTransformerV2':
        """Training mode for all but the frozen stages."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def _windows(self, value, name: str) -> list[Window]:
        return [to_window(window) for window in per_stage(value, len(self.depths), name)]

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        frozen = range(min(self.frozen_stages, len(self.stages)))
        norms = [self.out_norms[str(i)] for i in frozen if i in self.out_indices]
        return [self.patch_embed, *(self.stages[i] for i in frozen), *norms]

    def _freeze(self) -> None:
        for module in self._frozen_modules():
            module.eval()
            module.requires_grad_(False)
