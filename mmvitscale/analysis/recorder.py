"""Recording what happens inside a backbone while it runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mmvitscale.checkpoints.loading import backbones_of
from mmvitscale.errors import InputError
from mmvitscale.models.swin_v2.windows import WindowGeometry


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks of all our backbones in a model, by name, in the order of the layers."""
    found = {}
    for prefix, backbone in backbones_of(model).items():
        for name, module in backbone.named_modules():
            if name.split('.')[-1].isdigit() and name.split('.')[-2:-1] == ['blocks']:
                found[prefix + name] = module
    return found


def checked_blocks(model: nn.Module, layers: Sequence[int] | None = None) -> dict[int, tuple[str, nn.Module]]:
    """Layer -> the name and the block; all layers if None. Raises InputError for a layer that is not there, and for a model
    without a backbone of ours."""
    blocks = list(blocks_of(model).items())
    if not blocks:
        raise InputError('the model has no backbone of mmvitscale; give the config of a SwinV2, a DeepViT or a ViT')
    wrong = [i for i in layers or () if not 0 <= i < len(blocks)]
    if wrong:
        raise InputError(f'layer {wrong[0]} found, but the backbone has the layers 0 to {len(blocks) - 1}')
    return {i: blocks[i] for i in (range(len(blocks)) if layers is None else layers)}


@dataclass
class AttentionMaps:
    """The attention maps of a block in one forward pass.

    layer: its index among all blocks. name: of the block. size: (H, W) of the map of tokens. groups: (windows, heads, N, N)
        for the windows of each shape, a row is a query; attention over all tokens is one window for each image. windows: (h,
        w) of each group. geometry: where windows are in the map; None for attention over all tokens. class_token: whether
        token 0 of every window is the class token.
    """

    layer: int
    name: str
    size: tuple[int, int]
    geometry: WindowGeometry | None
    class_token: bool
    groups: list[Tensor] = field(default_factory=list)

    @property
    def windows(self) -> list[tuple[int, int]]:
        """(h, w) of each group."""
        return [self.size] if self.geometry is None else [group.window for group in self.geometry.groups]

    def of_query(self, y: int, x: int) -> Tensor:
        """(heads, H, W): what the token at row y and column x of the first image attends to; zero outside its window. Raises
        InputError for a token that is not there."""
        height, width = self.size
        if not (0 <= y < height and 0 <= x < width):
            raise InputError(f'token ({y}, {x}) found, but the map has {height} x {width} tokens')
        place, first, group = y * width + x, 0, self.groups[0]
        indices = None
        if self.geometry is not None and self.geometry.scatter_index is not None:
            indices, place = self.geometry.gather_index, int(self.geometry.scatter_index[place])
            for tokens_of_group, shape in zip(self.groups, self.geometry.groups):
                group = tokens_of_group
                if place < first + shape.tokens:
                    break
                first += shape.tokens
        tokens = group.shape[-1] - int(self.class_token)
        window, slot = divmod(place - first, tokens)
        row = group[window, :, slot + int(self.class_token), int(self.class_token) :]
        start = first + window * tokens
        targets = torch.arange(tokens) if indices is None else indices[start : start + tokens].cpu()
        found = torch.zeros(group.shape[1], height * width)
        found[:, targets] = row
        return found.view(-1, height, width)


@contextmanager
def recorded_attention(
    model: nn.Module, layers: Sequence[int] | None = None, each: Callable[[AttentionMaps], None] | None = None
) -> Iterator[list[list[AttentionMaps]]]:
    """Within it every forward pass appends a list with the maps of the layers asked for, all if None; or ``each`` takes the
    maps of one block after the other, and none are kept. Testing in windows of pixels makes a pass for each.

    The maps are computed a second time beside the kernel in use, so they may be looked at whatever it is; running statistics
    stay as they are, in training, too. Raises InputError for a layer that is not there.
    """
    chosen = checked_blocks(model, layers)
    first = next(iter(blocks_of(model).values()))
    passes: list[list[AttentionMaps]] = []
    grid: list[tuple[int, int]] = []  # of the patch embedding in the current pass

    def begin(module, inputs):
        passes.append([])

    def enter(layer, name):

        def hook(module, inputs, options):
            x, geometry = (*inputs, None)[:2]
            in_map = x.ndim == 4
            passes[-1].append(AttentionMaps(layer, name, tuple(x.shape[1:3]) if in_map else grid[-1], geometry, not in_map))

        return hook

    def record(module, inputs):
        with torch.no_grad():
            maps = module.attention_maps(*inputs)
        maps = maps if isinstance(maps, list) else [maps]
        passes[-1][-1].groups += [group.float().cpu() for group in maps]

    def leave(module, inputs, output):
        each(passes[-1].pop())

    hooks = [first.register_forward_pre_hook(begin)]
    for backbone in backbones_of(model).values():
        hooks.append(
            backbone.patch_embed.register_forward_hook(lambda module, inputs, output: grid.append(tuple(output.shape[1:3])))
        )
    for layer, (name, block) in chosen.items():
        hooks.append(block.register_forward_pre_hook(enter(layer, name), with_kwargs=True))
        hooks.append(block.attn.register_forward_pre_hook(record))
        if each is not None:
            hooks.append(block.register_forward_hook(leave))
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def recorded_features(model: nn.Module) -> Iterator[list[list[Tensor]]]:
    """Within it every forward pass appends a list: what each block of our backbones returns, (B, N, C) float32 on the CPU.
    The class token of a DeepViT is among its tokens."""
    blocks = checked_blocks(model)
    passes: list[list[Tensor]] = []

    def record(layer):

        def hook(module, inputs, output):
            if layer == 0:
                passes.append([])
            output = output[0] if isinstance(output, tuple) else output
            passes[-1].append(output.detach().float().cpu().flatten(1, -2))

        return hook

    hooks = [block.register_forward_hook(record(layer)) for layer, (_, block) in blocks.items()]
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()
