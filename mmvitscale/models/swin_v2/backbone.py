"""SwinTransformerV2 for dense prediction (Liu et al. 2022, Swin Transformer V2, arXiv 2111.09883)."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmvitscale.errors import InputError
from mmvitscale.models.layers.attachments import is_plain
from mmvitscale.models.layers.autocast import in_autocast_type
from mmvitscale.models.layers.drop_path import DropPath, check_rate, drop_path_rates
from mmvitscale.models.layers.initialisation import truncated_normal_
from mmvitscale.models.layers.mlp import MLP
from mmvitscale.models.layers.patch_embed import PatchEmbed, PatchMerging
from mmvitscale.models.layers.transforms import in_functorch
from mmvitscale.models.swin_v2 import kernels, tuning  # noqa: F401  (they join KERNELS)
from mmvitscale.models.swin_v2.attention import ATTENTION_TYPES, KERNELS, WindowAttention
from mmvitscale.models.swin_v2.checkpoint_policy import SwinV2CheckpointPolicy
from mmvitscale.models.swin_v2.position_bias import POSITION_BIASES
from mmvitscale.models.swin_v2.variants import SWIN_V2
from mmvitscale.models.swin_v2.windows import (
    Window,
    WindowGeometry,
    to_window,
    window_geometry,
    window_partition,
    window_reverse,
)
from mmvitscale.registry import MODELS
from mmvitscale.utils.renamed_arguments import renamed_arguments

WindowSize = int | Sequence[int]


def per_stage(value: Any, stages: int, name: str) -> list[Any]:
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
        self.mlp = MLP(dim, int(mlp_ratio * dim))
        self.norm2 = nn.LayerNorm(dim)
        self.extra_norm = nn.LayerNorm(dim) if extra_norm else None
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, geometry: WindowGeometry, pretrained_window: Window) -> Tensor:
        attended = self.attn(window_partition(in_autocast_type(x), geometry), geometry, pretrained_window)
        x = self._add(x, self.norm1, window_reverse(attended, geometry, x.shape[1:3]))
        x = self._add(x, self.norm2, self.mlp(x))
        return x if self.extra_norm is None else self.extra_norm(x)

    def _add(self, x: Tensor, norm: nn.Module, branch: Tensor) -> Tensor:
        """x + drop_path(norm(branch))."""
        branch = self.drop_path(norm(branch))
        # In place where nobody else has the norm's output: its gradient needs its input only.
        if is_plain(norm, nn.LayerNorm) and branch.dtype == x.dtype and not in_functorch():
            return branch.add_(x)
        return x + branch


class PreNormBlock(nn.Module):
    """(B, H, W, C) -> (B, H, W, C): window attention, then MLP, each of normalised tokens (SwinV1, the paper's comparison).

    Its norms have names of their own, so that weights of one kind of block cannot be taken for those of the other.
    """

    def __init__(self, dim: int, attn: nn.Module, mlp_ratio: float, drop_path: float, extra_norm: bool):
        super().__init__()
        self.pre_norm1 = nn.LayerNorm(dim)
        self.attn = attn
        self.pre_norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, int(mlp_ratio * dim))
        self.extra_norm = nn.LayerNorm(dim) if extra_norm else None
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, geometry: WindowGeometry, pretrained_window: Window) -> Tensor:
        attended = self.attn(window_partition(in_autocast_type(self.pre_norm1(x)), geometry), geometry, pretrained_window)
        x = x + self.drop_path(window_reverse(attended, geometry, x.shape[1:3]))
        x = x + self.drop_path(self.mlp(self.pre_norm2(x)))
        return x if self.extra_norm is None else self.extra_norm(x)


BLOCK_NORMS = {'post': SwinBlockV2, 'pre': PreNormBlock}


def reset_blocks(module: nn.Module) -> None:
    """The paper's initialisation of all inside: linear weights N(0, 0.02) truncated, biases zero, and both norms of a
    post-norm block zero, so that it starts as the identity (section 3.2)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            truncated_normal_(part.weight)
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

    Every second block is shifted. ``window`` is the side of its windows, ``initial_window`` what it was at first,
    ``pretrained_window`` the window that the position bias was first trained with: plain values, which ``weight_metadata``
    saves. ``pretrained_window_source`` says where the pretrained window is from: 'config', 'checkpoint', 'window_size' where
    neither contains it, or 'assumed' where weights were loaded and neither does.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        downsample: nn.Module | None,
        window: Window,
        pretrained_window: Window | None,
        with_cp: bool,
    ):
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)
        self.window = self.initial_window = window
        self.pretrained_window = pretrained_window or window
        self.pretrained_window_source = 'config' if pretrained_window else 'window_size'
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        if self.downsample is not None:
            x = self.downsample(x)
        geometries = [
            window_geometry(x.shape[0], tuple(x.shape[1:3]), self.window, shifted, x.device) for shifted in (False, True)
        ]
        for i, block in enumerate(self.blocks):
            if self.with_cp and torch.is_grad_enabled():
                x = checkpoint(block, x, geometries[i % 2], self.pretrained_window, use_reentrant=False)
            else:
                x = block(x, geometries[i % 2], self.pretrained_window)
        return x

    def set_window(self, window: Window) -> None:
        """Change the window; the pretrained window, and so the learned bias of an offset, stays."""
        self.window = window
        for block in self.blocks:
            block.attn.set_window(window)


@MODELS.register_module()
class SwinTransformerV2(SwinV2CheckpointPolicy):
    """(B, in_channels, H, W), any H, W >= 1 -> a tuple with one (B, C_i, ceil(H / 4 / 2^i), ceil(W / 4 / 2^i)) for
    each i in ``out_indices``, where C_i = embed_dims * 2^i.

    Args:
        arch: tiny, small, base, large, huge, giant, or a dict with embed_dims, depths, num_heads and, if wanted,
            mlp_ratio (4) and extra_norm_every (0: never; a LayerNorm on the main branch after every n-th block).
        window_size: side of the attention windows in tokens, an int for all stages or a list of one per stage, each
            an int or (height, width). A map smaller than its window is one window.
        pretrained_window_sizes: the pretrained windows: those the position bias was first trained with, in the form
            of window_size. None: those found in the checkpoint that is loaded, else window_size.
        position_bias: log_cpb (the paper's), linear_cpb or table.
        attention: the kernel, auto, eager (the formula as it stands, which alone has second derivatives), flex
            (FlexAttention on GPUs, as auto elsewhere), fused, sequential (least memory) or tuned (the fastest of them,
            measured at the first step; it may take more memory than auto); one for all stages or a list of one per stage.
        block_norm: post (res-post-norm, the paper's) or pre (SwinV1's blocks and patch merging, for comparison).
        attention_type: cosine (the paper's) or dot_product (SwinV1's, for comparison).
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

    @renamed_arguments(similarity='attention_type')
    def __init__(
        self,
        arch: str | dict[str, Any] = 'tiny',
        window_size: int | Sequence[WindowSize] = 16,
        pretrained_window_sizes: None | int | Sequence[WindowSize] = None,
        position_bias: str = 'log_cpb',
        attention: str | Sequence[str] = 'auto',
        block_norm: str = 'post',
        attention_type: str = 'cosine',
        out_indices: Sequence[int] | None = None,
        out_norm: bool = True,
        drop_path_rate: float = 0.2,
        with_cp: bool = False,
        frozen_stages: int = -1,
        in_channels: int = 3,
        init_cfg: dict[str, Any] | None = None,
    ):
        super().__init__(init_cfg)
        self.arch = SWIN_V2.resolve(arch)
        self.depths: tuple[int, ...] = self.arch['depths']
        stages = len(self.depths)
        self.out_indices = tuple(range(stages) if out_indices is None else out_indices)
        self.position_bias = position_bias
        self.frozen_stages = frozen_stages
        kernel_names = per_stage(attention, stages, 'attention')
        self._check_arguments(block_norm, attention_type, kernel_names, drop_path_rate)
        windows = self._windows(window_size, 'window_size')
        pretrained_windows: list[Window | None] = [None] * stages
        if pretrained_window_sizes is not None:
            pretrained_windows = [*self._windows(pretrained_window_sizes, 'pretrained_window_sizes')]

        dims = [self.arch['embed_dims'] * 2**i for i in range(stages)]
        drop_paths = iter(drop_path_rates(drop_path_rate, sum(self.depths)))
        self.patch_embed = PatchEmbed(in_channels, dims[0])
        self.stages = nn.ModuleList()
        for i in range(max(self.out_indices) + 1):
            heads, blocks = self.arch['num_heads'][i], []
            for block in range(self.depths[i]):
                bias = POSITION_BIASES[position_bias](heads, windows[i])
                attn = WindowAttention(dims[i], heads, bias, kernel_names[i], attention_type)
                blocks.append(self._block(block_norm, block, dims[i], attn, next(drop_paths)))
            downsample = PatchMerging(dims[i - 1], block_norm == 'pre') if i else None
            self.stages.append(Stage(blocks, downsample, windows[i], pretrained_windows[i], with_cp))
        self.out_norms = nn.ModuleDict({str(i): nn.LayerNorm(dims[i]) if out_norm else nn.Identity() for i in self.out_indices})
        self.reset_parameters()
        self._freeze()
        self._end_architecture()

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

    def _check_arguments(
        self, block_norm: str, attention_type: str, kernel_names: Sequence[str], drop_path_rate: float
    ) -> None:
        """Raise InputError for what fits no model."""
        if len(self.depths) != len(self.arch['num_heads']):
            raise InputError(
                f'a SwinV2 arch has one depth and one number of heads per stage, but depths {self.depths} '
                f'and num_heads {self.arch["num_heads"]} differ in length'
            )
        stages = len(self.depths)
        if not self.out_indices or not all(0 <= i < stages for i in self.out_indices):
            raise InputError(f'out_indices {self.out_indices} found, but this model has stages 0 to {stages - 1}')
        if not -1 <= self.frozen_stages <= stages:
            raise InputError(f'frozen_stages {self.frozen_stages} found, but it is -1 (nothing) to {stages} (all stages)')
        choices: tuple[tuple[str, str, Collection[str]], ...] = (
            ('position_bias', self.position_bias, POSITION_BIASES),
            ('block_norm', block_norm, BLOCK_NORMS),
            ('attention_type', attention_type, ATTENTION_TYPES),
        )
        for name, value, known in choices:
            if value not in known:
                raise InputError(f'unknown {name} {value!r}; choose one of {", ".join(known)}')
        unknown = [name for name in kernel_names if name not in KERNELS]
        if unknown:
            raise InputError(
                f'unknown attention {unknown[0]!r}; choose from {", ".join(sorted(KERNELS))}, one for all stages '
                'or a list of one per stage'
            )
        check_rate('drop_path_rate', drop_path_rate)

    def _block(self, block_norm: str, index: int, dim: int, attn: WindowAttention, drop_path: float) -> nn.Module:
        """Block ``index`` of its stage."""
        every = self.arch['extra_norm_every']
        extra_norm = every > 0 and (index + 1) % every == 0
        return BLOCK_NORMS[block_norm](dim, attn, self.arch['mlp_ratio'], drop_path, extra_norm)

    def _windows(self, value: Any, name: str) -> list[Window]:
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
