"""SwinTransformerV2 for dense prediction (Liu et al. 2022, Swin Transformer V2, arXiv 2111.09883)."""

from typing import Dict, List, Optional, Sequence, Set, Tuple, Union

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...errors import InputError
from ...registry import MODELS
from ..layers.drop_path import DropPath
from ..layers.feed_forward import FeedForward
from ..layers.patch_embed import PatchEmbed, PatchMerging
from ..layers.position_bias import POSITION_BIASES
from ..layers.window_attention import KERNELS, WindowAttention
from ..layers.windows import Window, WindowGeometry, to_window, window_geometry, window_merge, window_partition

WindowSize = Union[int, Sequence[int]]

# Section 4.1; the heads of huge and giant are not in the paper: those of the mmpretrain models. The extra LayerNorm
# of huge and giant is section 3.2.
ARCHS: Dict[str, dict] = {
    'tiny': dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
    'small': dict(embed_dims=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
    'base': dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
    'large': dict(embed_dims=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48)),
    'huge': dict(embed_dims=352, depths=(2, 2, 18, 2), num_heads=(8, 16, 32, 64), extra_norm_every=6),
    'giant': dict(embed_dims=512, depths=(2, 2, 42, 4), num_heads=(16, 32, 64, 128), extra_norm_every=6),
}
_ARCH_KEYS = {'embed_dims', 'depths', 'num_heads', 'mlp_ratio', 'extra_norm_every'}


def resolve_arch(arch: Union[str, dict]) -> dict:
    """The name of a variant, or a dict -> the dict with every key. Raises InputError for what is neither."""
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise InputError(f'unknown SwinV2 arch {arch!r}; choose one of {", ".join(ARCHS)}, or give a dict with '
                             'embed_dims, depths and num_heads')
        arch = ARCHS[arch]
    missing = {'embed_dims', 'depths', 'num_heads'} - set(arch)
    unknown = set(arch) - _ARCH_KEYS
    if missing or unknown:
        raise InputError(f'a SwinV2 arch has embed_dims, depths and num_heads, and may have mlp_ratio and '
                         f'extra_norm_every; missing: {sorted(missing) or "nothing"}, unknown: '
                         f'{sorted(unknown) or "nothing"}')
    if len(arch['depths']) != len(arch['num_heads']):
        raise InputError(f'a SwinV2 arch has one depth and one number of heads per stage, but depths '
                         f'{tuple(arch["depths"])} and num_heads {tuple(arch["num_heads"])} differ in length')
    return {'mlp_ratio': 4, 'extra_norm_every': 0, **arch, 'depths': tuple(arch['depths']),
            'num_heads': tuple(arch['num_heads'])}


def per_stage(value, stages: int, name: str) -> list:
    """One value or a sequence of one per stage -> a list of ``stages`` values. A tuple or list is a sequence."""
    if not isinstance(value, (list, tuple)):
        return [value] * stages
    if len(value) != stages:
        raise InputError(f'{name} has {len(value)} values, {list(value)}, for {stages} stages; give one value for all '
                         f'stages or a list of {stages}')
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


class Stage(nn.Module):
    """(B, H, W, C) -> (B, H, W, C), or (B, ceil(H / 2), ceil(W / 2), 2 C) where it starts with patch merging.

    Every second block is shifted. ``reference_window`` travels in the state dict: whoever loads the weights knows
    with which window their position bias was learned.
    """

    def __init__(self, blocks: Sequence[nn.Module], downsample: Optional[nn.Module], window: Window,
                 reference: Optional[Window], with_cp: bool):
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)
        self.window = window
        self.reference = reference or window
        # 'config', 'checkpoint', or 'window_size' where nothing said otherwise
        self.reference_origin = 'config' if reference else 'window_size'
        self.with_cp = with_cp
        self.register_buffer('reference_window', torch.tensor(self.reference))

    def forward(self, x: Tensor) -> Tensor:
        if self.downsample is not None:
            x = self.downsample(x)
        geometries = [
            window_geometry(x.shape[0], tuple(x.shape[1:3]), self.window, shifted, x.device)
            for shifted in (False, True)
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
            block.attn.position_bias.resize_(window)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        loaded = state_dict.get(prefix + 'reference_window')
        if loaded is not None:
            loaded = tuple(loaded.tolist())
            if self.reference_origin == 'config' and loaded != self.reference:
                raise InputError(f'{prefix[:-1]}: the checkpoint learned its position bias with window {loaded}, but '
                                 f'the config says pretrained_window_sizes {self.reference}; remove the option to '
                                 'take the window from the checkpoint')
            self.reference = loaded
            if self.reference_origin != 'config':
                self.reference_origin = 'checkpoint'
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


@MODELS.register_module()
class SwinTransformerV2(BaseModule):
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
        attention: the kernel, auto, eager, fused or sequential (least memory); one for all stages or a list of one
            per stage.
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

    def __init__(self,
                 arch: Union[str, dict] = 'tiny',
                 window_size: Union[int, Sequence[WindowSize]] = 16,
                 pretrained_window_sizes: Union[None, int, Sequence[WindowSize]] = None,
                 position_bias: str = 'log_cpb',
                 attention: Union[str, Sequence[str]] = 'auto',
                 out_indices: Optional[Sequence[int]] = None,
                 out_norm: bool = True,
                 drop_path_rate: float = 0.2,
                 with_cp: bool = False,
                 frozen_stages: int = -1,
                 in_channels: int = 3,
                 init_cfg: Optional[dict] = None):
        super().__init__(init_cfg)
        self.arch = arch = resolve_arch(arch)
        self.depths: Tuple[int, ...] = arch['depths']
        stages = len(self.depths)
        self.out_indices = tuple(range(stages) if out_indices is None else out_indices)
        if not self.out_indices or not all(0 <= i < stages for i in self.out_indices):
            raise InputError(f'out_indices {self.out_indices} found, but this model has stages 0 to {stages - 1}')
        if not -1 <= frozen_stages <= stages:
            raise InputError(f'frozen_stages {frozen_stages} found, but it is -1 (nothing) to {stages} (all stages)')
        if position_bias not in POSITION_BIASES:
            raise InputError(f'unknown position_bias {position_bias!r}; choose one of {", ".join(POSITION_BIASES)}')
        kernels = per_stage(attention, stages, 'attention')
        if not set(kernels) <= set(KERNELS):
            raise InputError(f'unknown attention {attention!r}; choose from {", ".join(KERNELS)}, one for all stages '
                             'or a list of one per stage')
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
                attn = WindowAttention(dims[i], arch['num_heads'][i], bias, kernels[i])
                extra_norm = extra_norm_every > 0 and (block + 1) % extra_norm_every == 0
                blocks.append(SwinBlockV2(dims[i], attn, arch['mlp_ratio'], next(drop_paths), extra_norm))
            downsample = PatchMerging(dims[i - 1]) if i else None
            self.stages.append(Stage(blocks, downsample, windows[i], references[i], with_cp))
        self.out_norms = nn.ModuleDict(
            {str(i): nn.LayerNorm(dims[i]) if out_norm else nn.Identity()
             for i in self.out_indices})

        self.reset_parameters()
        self._freeze()

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        x = self.patch_embed(x)
        outs = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                outs.append(self.out_norms[str(i)](x).permute(0, 3, 1, 2).contiguous())
        return tuple(outs)

    def set_window_size(self, window_size: Union[int, Sequence[WindowSize]]) -> None:
        """Change the windows, in the form of the constructor's argument, and keep the function that was learned: the
        bias of an offset does not move (a table is resized bicubically)."""
        for stage, window in zip(self.stages, self._windows(window_size, 'window_size')):
            stage.set_window(window)

    def reset_parameters(self) -> None:
        """The paper's initialisation: linear weights N(0, 0.02) truncated, biases zero, and both norms of a block
        zero, so that every block starts as the identity (section 3.2)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, SwinBlockV2):
                for norm in (module.norm1, module.norm2):
                    nn.init.zeros_(norm.weight)
                    nn.init.zeros_(norm.bias)

    def get_layer_depth(self, name: str, prefix: str = '') -> Tuple[int, int]:
        """Parameter name -> (depth, number of depths), for layer-wise learning rates.

        The patch embedding is 0, block j of all blocks j + 1, patch merging as the block before it, and all else
        (output norms, heads: what does not start with ``prefix``) the last depth.
        """
        num_depths = sum(self.depths) + 2
        if not name.startswith(prefix):
            return num_depths - 1, num_depths
        parts = name[len(prefix):].split('.')
        if parts[0] == 'patch_embed':
            return 0, num_depths
        if parts[0] == 'stages':
            before = sum(self.depths[:int(parts[1])])
            return (before + int(parts[3]) + 1 if parts[2] == 'blocks' else before), num_depths
        return num_depths - 1, num_depths

    def no_weight_decay(self) -> Set[str]:
        """Names of the parameters that take no weight decay: position biases, logit scales, norms and biases."""
        return {
            name
            for name, parameter in self.named_parameters()
            if parameter.ndim <= 1 or 'position_bias' in name or 'logit_scale' in name
        }

    def train(self, mode: bool = True) -> 'SwinTransformerV2':
        """Training mode for all but the frozen stages."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def _windows(self, value, name: str) -> List[Window]:
        return [to_window(window) for window in per_stage(value, len(self.depths), name)]

    def _frozen_modules(self) -> List[nn.Module]:
        if self.frozen_stages < 0:
            return []
        frozen = range(min(self.frozen_stages, len(self.stages)))
        norms = [self.out_norms[str(i)] for i in frozen if i in self.out_indices]
        return [self.patch_embed, *(self.stages[i] for i in frozen), *norms]

    def _freeze(self) -> None:
        for module in self._frozen_modules():
            module.eval()
            module.requires_grad_(False)
