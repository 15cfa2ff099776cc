"""The same function as a graph that holds for every image size.

The exact windows (``models/swin_v2/windows.py``) vary in number and shape with the map, so a graph of them is one of one size.
Here every window has w x w places: the map is laid out over whole windows, a shifted one with its first window filled in
front, and places without a token are masked as keys and cut off as queries. All that depends on the size is arithmetic of
sizes, without a branch, and the results are those of the exact form to rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvitscale.errors import InputError
from mmvitscale.export.constant_folding import fold, new_budget
from mmvitscale.models import DeepViT, SwinTransformerV2
from mmvitscale.models.deepvit.position_embedding import cubic_weights
from mmvitscale.models.deepvit.re_attention import ReAttention
from mmvitscale.models.deepvit.re_attention_norm import gain_and_offset
from mmvitscale.models.swin_v2.attention import WindowAttention, scaled_query_key
from mmvitscale.models.swin_v2.backbone import Stage

# What a place without a token adds to the logits, which are at most 116: its weight is exactly zero in every type.
_MASKED = -1e4


def filled(x: Tensor, dim: int, multiple: int) -> Tensor:
    """x with zeros at the end of an axis up to a multiple."""
    index = torch.arange((x.shape[dim] + multiple - 1) // multiple * multiple, device=x.device)
    inside = index < x.shape[dim]
    x = x.index_select(dim, torch.where(inside, index, torch.zeros_like(index)))
    shape = [1] * x.ndim
    shape[dim] = -1
    return x * inside.view(shape).to(x.dtype)


def _copied(x: Tensor) -> Tensor:
    """In the order of its axes, always: whether a reshape copies would depend on the size."""
    return x.clone(memory_format=torch.contiguous_format)


def _thirds(qkv: Tensor, heads: int) -> tuple[Tensor, ...]:
    """(..., 3 C) -> q, k, v, each (..., heads, d): slices, which every runtime takes at any size."""
    dim = qkv.shape[-1] // 3
    return tuple(qkv[..., i * dim : (i + 1) * dim].unflatten(-1, (heads, dim // heads)) for i in range(3))


@dataclass(frozen=True)
class Axis:
    """The tokens of an axis, laid out over whole windows. count: of windows, of ``window`` places each. token: at each place,
    0 where there is none. inside: where there is one. place: of each token."""

    window: int
    count: int
    token: Tensor
    inside: Tensor
    place: Tensor


@dataclass(frozen=True)
class DynamicGeometry:
    """In place of a ``WindowGeometry``; the tokens stay in the map's own order outside the attention."""

    batch: int
    rows: Axis
    columns: Axis
    mask: Tensor  # (1, windows, 1, 1, N), what is added for each key
    gather_index: None = None


def _axis(length: int, window: int, shifted: bool, device: torch.device) -> Axis:
    front = 0  # places without a token in front of the first one
    if shifted and window > 1:
        several = 1 - 1 // (1 + (length - 1) // window)  # 0 where one window holds all, else 1
        front = (window - window // 2) * several
    count = (front + length + window - 1) // window
    token = torch.arange(count * window, device=device) - front
    inside = (token >= 0) & (token < length)
    return Axis(
        window, count, torch.where(inside, token, torch.zeros_like(token)), inside, torch.arange(length, device=device) + front
    )


def dynamic_geometry(x: Tensor, window: tuple[int, int], shifted: bool) -> DynamicGeometry:
    """Of a map (B, H, W, C) in windows of (h, w) tokens, shifted or not."""
    rows, columns = (_axis(x.shape[1 + i], window[i], shifted, x.device) for i in range(2))
    inside = rows.inside.view(rows.count, 1, window[0], 1) & columns.inside.view(1, columns.count, 1, window[1])
    mask = torch.where(inside.reshape(1, rows.count * columns.count, 1, 1, window[0] * window[1]), 0.0, _MASKED)
    return DynamicGeometry(x.shape[0], rows, columns, mask)


class DynamicAttention(nn.Module):
    """In place of a ``WindowAttention``: takes the tokens of a whole map, and cuts it into windows itself."""

    def __init__(self, attn: WindowAttention, window: tuple[int, int], reference: tuple[int, int], budget: list):
        super().__init__()
        self.attn = attn
        with torch.no_grad():
            self.bias = fold(attn.position_bias(window, reference), window, budget)
        attn.position_bias = nn.Identity()  # its parameters have no place in the graph

    def forward(self, tokens: Tensor, geometry: DynamicGeometry, reference: object = None) -> Tensor:
        """(B * H * W, C) -> (B * H * W, C)."""
        rows, columns, channels = geometry.rows, geometry.columns, tokens.shape[-1]
        height, width = rows.place.shape[0], columns.place.shape[0]
        x = tokens.view(geometry.batch, height, width, channels)
        x = x.index_select(1, rows.token).index_select(2, columns.token)
        x = x.view(geometry.batch, rows.count, rows.window, columns.count, columns.window, channels)
        x = _copied(x.permute(0, 1, 3, 2, 4, 5))
        x = self._attend(
            x.view(geometry.batch, rows.count * columns.count, rows.window * columns.window, channels), geometry.mask
        )
        x = x.view(geometry.batch, rows.count, columns.count, rows.window, columns.window, channels)
        x = _copied(x.permute(0, 1, 3, 2, 4, 5))
        x = x.view(geometry.batch, rows.count * rows.window, columns.count * columns.window, channels)
        x = x.index_select(1, rows.place).index_select(2, columns.place)
        return x.view(geometry.batch * height * width, channels)

    def _attend(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, windows, N, C), and what is added for each key, (1, windows, 1, 1, N) -> (B, windows, N, C)."""
        attn = self.attn
        q, k, v = _thirds(attn.query_key_value(x), attn.num_heads)
        q, k = scaled_query_key(q, k, attn.scale())
        q, k, v = (part.transpose(2, 3) for part in (q, k, v))
        weights = (q @ k.transpose(-2, -1) + self.bias() + mask).softmax(dim=-1)
        return attn.proj(_copied((weights @ v).transpose(2, 3)).flatten(3))


class DynamicStage(nn.Module):
    """In place of a ``Stage``."""

    def __init__(self, stage: Stage, budget: list):
        super().__init__()
        self.downsample, self.blocks, self.window = stage.downsample, stage.blocks, stage.window
        for block in self.blocks:
            block.attn = DynamicAttention(block.attn, stage.window, stage.pretrained_window, budget)

    def forward(self, x: Tensor) -> Tensor:
        if self.downsample is not None:
            x = self.downsample(filled(filled(x, 1, 2), 2, 2))
        geometries = [dynamic_geometry(x, self.window, shifted) for shifted in (False, True)[: len(self.blocks)]]
        for i, block in enumerate(self.blocks):
            x = block(x, geometries[i % 2], None)
        return x


class DynamicSwin(nn.Module):
    """A SwinV2, changed in place, for images of every size."""

    def __init__(self, backbone: SwinTransformerV2):
        super().__init__()
        self.inner = backbone
        budget = new_budget()
        backbone.stages = nn.ModuleList(DynamicStage(stage, budget) for stage in backbone.stages)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.inner(filled(filled(image, 2, 4), 3, 4))


class PlainAttention(nn.Module):
    """Self-attention as it is evaluated, without a size of chunks in the graph."""

    def __init__(self, attn: nn.Module):
        super().__init__()
        self.attn = attn

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        q, k, v = (part.transpose(1, 2) for part in _thirds(self.attn.qkv(x), self.attn.num_heads))
        maps = self.mixed((q @ k.transpose(-2, -1) * self.attn.scale).softmax(dim=-1))
        return self.attn.proj((maps @ v).transpose(1, 2).flatten(2))

    def mixed(self, maps: Tensor) -> Tensor:
        """(B, heads, N, N) -> what meets v."""
        return maps


class FoldedReAttention(PlainAttention):
    """Re-attention whose gain does not depend on the image: BatchNorm within the convolution over heads, for fewer steps."""

    def __init__(self, attn: ReAttention):
        super().__init__(attn)
        reference = attn.token_law.trained_tokens
        with torch.no_grad():
            mix, mix_bias = attn.mixing()
            # At N tokens the offset is behind / N, or as for the official form, where one number stands for all, shift.
            gain, offset = gain_and_offset(attn.var_norm, attn.token_law, mix, mix_bias, None, reference, attn.statistics, 1.0)
            behind = offset * reference - gain * mix.sum(1)
            always = offset - gain * mix.sum(1) / reference
            invariant = attn.statistics == 'token_invariant'
            self.register_buffer('weight', attn.out_scale * gain[:, None] * mix)
            self.register_buffer('shift', attn.out_scale * (0 if invariant else 1) * always.view(-1, 1, 1))
            self.register_buffer('behind', attn.out_scale * (1 if invariant else 0) * behind.view(-1, 1, 1))
        attn.var_norm, attn.reatten_matrix, attn.token_law = nn.Identity(), nn.Identity(), nn.Identity()

    def mixed(self, maps: Tensor) -> Tensor:
        """(B, heads, N, N) -> what meets v."""
        return torch.einsum('hg,bgqk->bhqk', self.weight, maps) + (self.shift + self.behind / _length(maps))


class MeasuredReAttention(PlainAttention):
    """Re-attention whose gain depends on the number of tokens, or on the maps themselves."""

    def mixed(self, maps: Tensor) -> Tensor:
        """(B, heads, N, N) -> what meets v."""
        attn, tokens = self.attn, _length(maps)
        weight, bias = attn.mixing()
        mixed = torch.einsum('hg,bgqk->bhqk', weight, maps - 1 / tokens)
        gain, offset = gain_and_offset(
            attn.var_norm,
            attn.token_law,
            weight,
            bias,
            (mixed * mixed).mean((2, 3)),
            tokens,
            attn.statistics,
            attn.image_share,
        )
        return attn.out_scale * (gain[..., None, None] * mixed + offset[..., None, None])


def _length(maps: Tensor) -> Tensor:
    """(..., N) -> (1,): N, of the maps' type."""
    return torch.ones_like(maps[0, 0, 0]).sum()[None]


def plain_attention(backbone: DeepViT) -> None:
    """Give a DeepViT the attention of a file to run, in place."""
    for block in backbone.blocks:
        kind: type[PlainAttention] = PlainAttention
        if isinstance(block.attn, ReAttention):
            kind = FoldedReAttention if block.attn.statistics in ('running', 'token_invariant') else MeasuredReAttention
        block.attn = kind(block.attn)


class DynamicDeepViT(nn.Module):
    """A DeepViT, changed in place, for images of every size: its position embedding is always read bicubically, by the product
    with what each patch takes of each position."""

    def __init__(self, backbone: DeepViT):
        super().__init__()
        if backbone.window is not None:
            raise InputError(
                f'this DeepViT attends in windows of {backbone.window} tokens, which are cut for one size; give '
                'sizes instead of --any-size'
            )
        self.inner = backbone
        plain_attention(backbone)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        own = self.inner
        patch = own.patch_size
        x = own.patch_embed(filled(filled(image, 2, patch), 3, patch))
        height, width = x.shape[1:3]
        x = torch.cat((own.cls_token.expand(x.shape[0], -1, -1), x.flatten(1, 2)), dim=1)
        grows = 1 - 1 // (1 + height // own.grid[0])  # 1 where no side shrinks, else 0
        grows = grows * (1 - 1 // (1 + width // own.grid[1]))
        rows, columns = (
            cubic_weights(torch.arange(side, device=x.device, dtype=x.dtype), cells, grows)
            for side, cells in zip((height, width), own.grid)
        )
        maps = own.pos_embed[0, 1:].unflatten(0, own.grid)
        maps = torch.einsum('yh,xw,hwc->yxc', rows, columns, maps)
        x = x + torch.cat((own.pos_embed[:, :1], maps.flatten(0, 1)[None]), dim=1)
        outs = []
        for i, block in enumerate(own.blocks):
            x = block(x)
            if i in own.out_indices:
                outs.append(own.output_of(x, i, (height, width)))
        return tuple(outs)


class DynamicPool(nn.Module):
    """In place of ``nn.AdaptiveAvgPool2d``: a product with the shares that the cells of the output take of the input."""

    def __init__(self, pool: nn.AdaptiveAvgPool2d):
        super().__init__()
        size = pool.output_size
        self.size = (size, size) if isinstance(size, int) else tuple(size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, h, w)."""
        rows, columns = (self._shares(side, own, x) for side, own in zip(x.shape[2:], self.size))
        x = (x[:, :, None] * rows[:, :, None]).sum(3)  # (B, C, h, W); as a matrix product its graph would depend on the size
        return (x[:, :, :, None] * columns).sum(4)

    @staticmethod
    def _shares(length: int, cells: int, x: Tensor) -> Tensor:
        """(cells, length): cell i covers the places from floor(i n / cells) to ceil((i + 1) n / cells)."""
        places, cell = torch.arange(length, device=x.device), torch.arange(cells, device=x.device)[:, None]
        first, behind = cell * length // cells, ((cell + 1) * length + cells - 1) // cells
        inside = (places >= first) & (places < behind)
        return inside.to(x.dtype) / (behind - first).to(x.dtype)


class DynamicUpsample(nn.Module):
    """In place of mmsegmentation's ``Upsample``, whose sizes become numbers of one graph."""

    def __init__(self, module: nn.Module):
        super().__init__()
        if module.size or int(module.scale_factor) != module.scale_factor:
            raise InputError(
                'an Upsample to a fixed size or by a fraction has no graph for every size; give sizes instead of --any-size'
            )
        self.factor, self.mode, self.align_corners = int(module.scale_factor), module.mode, module.align_corners

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, factor H, factor W)."""
        size = tuple(side * self.factor for side in x.shape[2:])
        return F.interpolate(x, size=size, mode=self.mode, align_corners=self.align_corners)


_BACKBONES: dict[type[nn.Module], Callable[[nn.Module], nn.Module]] = {SwinTransformerV2: DynamicSwin, DeepViT: DynamicDeepViT}


def with_dynamic_shapes(module: nn.Module) -> nn.Module:
    """A model in evaluation mode -> the same for images of every size; changed in place. Raises InputError for what has no such
    form."""
    for kind, build in _BACKBONES.items():
        if isinstance(module, kind):
            return build(module)
    if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size not in (1, (1, 1)):
        return DynamicPool(module)
    if type(module).__name__ == 'Upsample' and type(module).__module__.startswith('mmseg.'):
        return DynamicUpsample(module)
    for name, child in module.named_children():
        setattr(module, name, with_dynamic_shapes(child))
    return module
