"""How each library names a SwinV2: one description a library, read in both directions.

The official repository (classifiers and SimMIM encoders), timm, Hugging Face transformers, mmpretrain, torchvision, and our
own. A library without a place for what a backbone has (another kind of block, windows that are no squares) is refused: the
weights would load there and compute something else.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mmvitscale.checkpoints.convert import CheckpointFormat, Converted, ConvertedBack, Read, State, register
from mmvitscale.checkpoints.metadata import Size, WeightMetadata, WindowMetadata, integers, show_windows
from mmvitscale.errors import InputError
from mmvitscale.models.swin_v2.position_bias import log_coordinates, relative_offsets

_LAYERS = ('qkv.weight', 'q_bias', 'v_bias', 'logit_scale', 'proj.weight', 'proj.bias')
_NORMS = ('pre_norm1', 'norm1', 'pre_norm2', 'norm2', 'extra_norm', 'mlp.fc1', 'mlp.fc2')
# Our names in a block, in a patch merging, and outside the stages; norms of outputs are ``out_norms.<stage>``.
_BLOCK = (
    *(f'attn.position_bias.mlp.{name}' for name in ('0.weight', '0.bias', '2.weight')),
    *(f'attn.{name}' for name in _LAYERS),
    *(f'{name}.{leaf}' for name in _NORMS for leaf in ('weight', 'bias')),
)
_MERGING = ('downsample.reduction.weight', 'downsample.norm.weight', 'downsample.norm.bias')
_STEM = (*(f'patch_embed.{name}.{leaf}' for name in ('proj', 'norm') for leaf in ('weight', 'bias')), 'mask_token')
# What depends on sizes alone, by the last part of its name: dropped.
_DERIVED = ('relative_coords_table', 'relative_position_index', 'attn_mask', 'k_bias')


@dataclass(frozen=True)
class Place:
    """Where the weights of a stage stand, such as ``layers.{i}.blocks.{block}.`` with i = step * stage + first. underscores:
    whether ``layers_{i}.`` is read, too (timm's ``features_only``)."""

    template: str
    step: int = 1
    first: int = 0
    underscores: bool = False

    def name(self, stage: int, block: int = 0) -> str:
        """What stands before the weights of a stage, or of a block of it."""
        return self.template.format(i=self.step * stage + self.first, block=block)

    def find(self, key: str) -> tuple[int, int, str] | None:
        """A name -> stage, block (0 where there is none) and the rest; None for what is elsewhere."""
        match = self._pattern.match(key)
        if not match:
            return None
        stage, remainder = divmod(int(match['i']) - self.first, self.step)
        return None if remainder else (stage, int(match.groupdict().get('block') or 0), key[match.end() :])

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        pattern = re.escape(self.template)
        if self.underscores:
            pattern = pattern.replace(re.escape('layers.'), re.escape('layers') + '[._]')
        return re.compile(pattern.replace(r'\{i\}', r'(?P<i>\d+)').replace(r'\{block\}', r'(?P<block>\d+)'))


@dataclass(frozen=True)
class Regrouping:
    """Weights that a library holds in other tensors: names of ours and theirs, both before they are renamed, and what makes one
    of the other."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    to_ours: Callable[..., tuple[Tensor, ...]]
    to_theirs: Callable[..., tuple[Tensor, ...]]

    def read(self, weights: State) -> State:
        """Theirs -> ours, wherever all parts are there."""
        return self._apply(weights, self.theirs, self.ours, self.to_ours)

    def write(self, weights: State) -> State:
        """Ours -> theirs."""
        return self._apply(weights, self.ours, self.theirs, self.to_theirs)

    @staticmethod
    def _apply(weights: State, have: Sequence[str], want: Sequence[str], make: Callable[..., tuple[Tensor, ...]]) -> State:
        out = dict(weights)
        for key in weights:
            start = key.removesuffix(have[0])
            if start == key or not all(start + name in weights for name in have):
                continue
            made = make(*(out.pop(start + name) for name in have))
            out.update({start + name: value for name, value in zip(want, made, strict=True)})
        return out


@dataclass(frozen=True)
class Sizes:
    """What a model of another library is built from: its sizes, and a window and a pretrained window for each stage."""

    dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    mlp_ratio: float
    channels: int
    windows: list[int]
    pretrained_windows: list[int]
    classes: int
    extra_norm_every: int

    @property
    def last(self) -> int:
        """The last stage."""
        return len(self.depths) - 1

    @property
    def image(self) -> int:
        """The smallest square image whose maps fill the windows: where a library shrinks windows to the maps, all run."""
        return max(4 * 2**i * window for i, window in enumerate(self.windows))


@dataclass(frozen=True)
class SwinV2Format(CheckpointFormat):
    """How a library names a SwinV2.

    blocks, merging: where the weights of a block and of a patch merging stand. renamed: beginnings of our names (in a block, in
    a patch merging, outside the stages) -> theirs. norms: name of the norm behind the last stage, or with ``{i}`` of every
    stage. regroupings: weights that it holds in other tensors. dropped: patterns of keys outside the stages that are left out.
    fits: of formats with the same anchor, whether keys are of this one.

    To write: backbone_prefix: of the backbone in a classifier. derived: for each block's ``attn.`` what its state dict holds of
    the windows. wrap: weights -> content of a file. builder, arguments: what builds the model. config: what stands beside
    the weights. extra_norm: whether it has norms on the main branch. any_pretrained_window: whether it has windows other than
    the pretrained ones. window_per_stage: whether each stage has a window of its own.
    """

    family = 'SwinV2'

    blocks: Place = Place('stages.{i}.blocks.{block}.')
    merging: Place = Place('stages.{i}.')
    renamed: dict[str, str] = field(default_factory=dict)
    norms: str = 'norm'
    regroupings: tuple[Regrouping, ...] = ()
    dropped: tuple[str, ...] = (r'head\..*',)
    fits: Callable[[State], bool] = lambda keys: True
    backbone_prefix: str = ''
    derived: Callable[[Size, Size], State] = lambda window, pretrained_window: {}
    wrap: Callable[[State], dict[str, Any]] = lambda weights: weights
    builder: str | Callable[[Sizes], str] = ''
    arguments: Callable[[Sizes], dict[str, object]] = lambda sizes: {}
    config: Callable[[Sizes], dict[str, Any]] | None = None
    extra_norm: bool = False
    any_pretrained_window: bool = True
    window_per_stage: bool = False

    def matches(self, keys: State) -> bool:
        """Of several formats with the same anchor, whether these keys are of this one."""
        return self.fits(keys)

    def read(self, keys: State, entry: Tensor | None) -> Read:
        """Keys behind the prefix -> our names; as in ``CheckpointFormat``."""
        pretrained_windows, keys = _split_old_windows(keys)
        stages = 1 + max((found[0] for key in keys if (found := self.blocks.find(key) or self._merging(key))), default=-1)
        weights, dropped, unknown, tables = self._rename(keys, stages)
        try:
            for regrouping in self.regroupings:
                weights = regrouping.read(weights)
        except (RuntimeError, IndexError, ValueError) as error:
            raise InputError(
                f'the checkpoint has the format of {self.name}, but not the shapes that go with it ({error}); '
                'take the file as it was saved'
            ) from error
        if entry is not None:
            metadata = WindowMetadata.decode(entry)
            if len(metadata.pretrained_windows) != stages:
                raise InputError(
                    f'the metadata of the weights is of {len(metadata.pretrained_windows)} stages, but there are {stages}; '
                    'take the file as it was saved'
                )
        elif self is OURS:  # of version 0.1.0, which recorded the pretrained windows alone
            table = any(key.endswith('.table') for key in weights)
            known = tuple(None if table else pretrained_windows.get(i) for i in range(stages))
            metadata = WindowMetadata('table' if table else None, known, (None,) * stages)
        else:
            pairs = [windows_of_coordinates(tables[i]) if i in tables else (None, None) for i in range(stages)]
            metadata = WindowMetadata('log_cpb', tuple(pair[1] for pair in pairs), tuple(pair[0] for pair in pairs))
        return Read(self.name, weights, dropped, unknown, metadata)

    def write(self, converted: Converted, weight_metadata: WeightMetadata | None, heads: State) -> ConvertedBack:
        """Our weights -> the library's; as in ``CheckpointFormat``."""
        weights = {key: value for key, value in converted.weights.items() if key != 'mask_token'}
        sizes = self._sizes(weights, weight_metadata, heads)
        left_out = [key for key in converted.weights if key == 'mask_token']
        if '{i}' not in self.norms:
            inner = [key for key in weights if key.startswith('out_norms.') and int(key.split('.')[1]) != sizes.last]
            left_out += inner
            weights = {key: value for key, value in weights.items() if key not in inner}
        for regrouping in self.regroupings:
            weights = regrouping.write(weights)
        out = {self._theirs(key): value.clone() for key, value in weights.items()}
        for i, depth in enumerate(sizes.depths):
            for block in range(depth):
                start = self.blocks.name(i, block)
                for name, value in self.derived((sizes.windows[i],) * 2, (sizes.pretrained_windows[i],) * 2).items():
                    out[start + self._renamed(f'attn.{name}')] = value.clone()
        if heads:
            out = {self.backbone_prefix + key: value for key, value in out.items()}
            out.update({f'{self.heads[0]}.{name}': value.clone() for name, value in heads.items()})
        notes = []
        if '{i}' not in self.norms and f'out_norms.{sizes.last}.weight' not in weights:
            notes.append(f'the checkpoint has no norm behind the last stage, which {self.library} has: there it is initialised')
        if not self.window_per_stage and not _is_one_window(sizes.windows):
            notes.append(
                f'{self.library} has one window for all stages, {max(sizes.windows)} here, shrunk to small maps alone; '
                f'these weights last ran with {show_windows([(w, w) for w in sizes.windows])}'
            )
        builder = self.builder if isinstance(self.builder, str) else self.builder(sizes)
        config = self.config(sizes) if self.config else None
        return ConvertedBack(self.library, out, self.wrap(out), left_out, builder, self.arguments(sizes), config, notes)

    def _renamed(self, name: str) -> str:
        """One of our names, without its place -> theirs."""
        for start, theirs in self.renamed.items():
            if name.startswith(start):
                return theirs + name[len(start) :]
        return name

    def _theirs(self, key: str) -> str:
        """One of our names -> theirs."""
        block = OURS.blocks.find(key)
        if block:
            return self.blocks.name(*block[:2]) + self._renamed(block[2])
        merging = OURS.merging.find(key)
        if merging:
            return self.merging.name(merging[0]) + self._renamed(merging[2])
        norm = re.match(r'out_norms\.(\d+)\.', key)
        if norm:
            return f'{self.norms.format(i=norm[1])}.{key[norm.end() :]}'
        return self._renamed(key)

    @cached_property
    def _ours(self) -> dict[str, str]:
        """Their names without places -> ours."""
        parts = [name for regrouping in self.regroupings for name in regrouping.theirs]
        tables = ['attn.position_bias.table'] if self is OURS else []
        return {self._renamed(name): name for name in (*_BLOCK, *_MERGING, *_STEM, *parts, *tables)}

    def _merging(self, key: str) -> tuple[int, int, str] | None:
        """Stage, 0 and the name in it, of a key in a patch merging."""
        found = self.merging.find(key)
        return found if found and self._ours.get(found[2], '') in _MERGING else None

    def _rename(self, keys: State, stages: int) -> tuple[State, list[str], list[str], dict[int, Tensor]]:
        """Weights under our names; the keys that are dropped, and unknown; the coordinates of each stage that has some."""
        weights: State = {}
        dropped, unknown = [], []
        tables: dict[int, Tensor] = {}
        norms = re.compile(re.escape(self.norms).replace(r'\{i\}', r'(\d+)') + r'\.(weight|bias)')
        for key, value in keys.items():
            block, merging = self.blocks.find(key), self._merging(key)
            if key.rsplit('.', 1)[-1] in _DERIVED or any(re.fullmatch(pattern, key) for pattern in self.dropped):
                dropped.append(key)
                if block and key.endswith('relative_coords_table'):
                    _check_equal(tables.setdefault(block[0], value), value, block[0])
                continue
            norm = norms.fullmatch(key)
            name = self._ours.get((block or merging or (0, 0, key))[2])
            if (
                block
                and name in (*_BLOCK, *(part for regrouping in self.regroupings for part in regrouping.theirs))
                or block
                and name == 'attn.position_bias.table'
            ):
                weights[OURS.blocks.name(*block[:2]) + name] = value
            elif merging and name:
                weights[OURS.merging.name(merging[0]) + name] = value
            elif norm:
                stage = norm[1] if '{i}' in self.norms else stages - 1
                weights[f'out_norms.{stage}.{norm[norm.lastindex or 1]}'] = value
            elif not block and name in _STEM:
                weights[name] = value
            else:
                unknown.append(key)
        return weights, dropped, unknown, tables

    def _sizes(self, weights: State, metadata: WeightMetadata | None, heads: State) -> Sizes:
        """Sizes of the model that is to be built. Raises InputError where the library has none that computes the same."""
        for part, what in (('pre_norm', 'block_norm pre'), ('extra_norm', 'a norm on the main branch')):
            if any(f'.{part}' in key for key in weights) and not (part == 'extra_norm' and self.extra_norm):
                raise InputError(f'{self.library} has no SwinV2 with {what}; it stays in mmvitscale')
        cosine = any('logit_scale' in key for key in weights)
        if not isinstance(metadata, WindowMetadata) or metadata.position_bias not in (None, 'log_cpb') or not cosine:
            raise InputError(
                f'{self.library} has log-spaced position biases and cosine attention alone; this backbone stays in mmvitscale'
            )
        pretrained = [window for window in metadata.pretrained_windows if window]
        if len(pretrained) < len(metadata.pretrained_windows):
            raise InputError(
                'the file does not contain the windows that its position biases were trained with; give '
                '--pretrained-window-sizes'
            )
        windows = [window or own for window, own in zip(metadata.windows, pretrained)]
        for name, sides in (('windows', windows), ('pretrained windows', pretrained)):
            if any(height != width for height, width in sides):
                raise InputError(
                    f'its {name} are {show_windows(sides)}, but those of {self.library} are squares; set other windows '
                    'before you save'
                )
        if not self.any_pretrained_window and windows != pretrained:
            raise InputError(
                f'its position biases were trained with the windows {show_windows(pretrained)} and it runs with '
                f'{show_windows(windows)}, but {self.library} knows no pretrained windows; choose another library'
            )
        places = [found[:2] for key in weights if (found := OURS.blocks.find(key))]
        depths = tuple(len({block for stage, block in places if stage == i}) for i in range(len(pretrained)))
        dim, channels = weights['patch_embed.proj.weight'].shape[:2]
        extra = [int(key.split('.')[3]) for key in weights if key.endswith('.extra_norm.weight')]
        return Sizes(
            dim=dim,
            depths=depths,
            heads=tuple(len(weights[f'stages.{i}.blocks.0.attn.logit_scale']) for i in range(len(depths))),
            mlp_ratio=len(weights['stages.0.blocks.0.mlp.fc1.bias']) / dim,
            channels=channels,
            windows=[window[0] for window in windows],
            pretrained_windows=[window[0] for window in pretrained],
            classes=len(heads['weight']) if heads else 0,
            extra_norm_every=1 + min(extra, default=-1),
        )


def _check_equal(first: Tensor, table: Tensor, stage: int) -> None:
    if first.shape != table.shape or not torch.equal(first, table):
        raise InputError(
            f'the blocks of stage {stage} have different relative_coords_tables, so they were trained with different windows; '
            'take the file as it was saved'
        )


def _is_one_window(windows: Sequence[int]) -> bool:
    """Whether one window, shrunk to the maps of some square image, gives these."""
    sides = [4 * 2**i * window for i, window in enumerate(windows) if window < max(windows)]
    whole = [4 * 2**i * window for i, window in enumerate(windows) if window == max(windows)]
    return not sides or len(set(sides)) == 1 and sides[0] >= max(whole)


def _split_old_windows(keys: State) -> tuple[dict[int, Size], State]:
    """The buffers in which mmvitscale 0.1.0 had the pretrained window of each stage, and the other keys."""
    windows: dict[int, Size] = {}
    for key, value in keys.items():
        match = re.fullmatch(r'stages\.(\d+)\.reference_window', key)
        if match:
            height, width = integers(value, (2,))
            windows[int(match[1])] = (height, width)
    return windows, {key: value for key, value in keys.items() if not key.endswith('.reference_window')}


# What libraries hold of the windows, and what pretrained window follows from it.


def coordinates_table(window: Size, pretrained_window: Size) -> Tensor:
    """(1, 2 h - 1, 2 w - 1, 2) float32 log-coordinates of all offsets, as the official code saves them."""
    axes = [log_coordinates(relative_offsets(n), p).float() for n, p in zip(window, pretrained_window)]
    return torch.stack(torch.meshgrid(*axes, indexing='ij'), dim=-1)[None]


def position_index(window: Size) -> Tensor:
    """(N, N) int64: the place of each pair's offset, query minus key, among all of them row by row."""
    height, width = window
    sides = (torch.arange(side, device='cpu') for side in window)
    y, x = (part.flatten() for part in torch.meshgrid(*sides, indexing='ij'))
    return (y[:, None] - y + height - 1) * (2 * width - 1) + x[:, None] - x + width - 1


def _tables(window: Size, pretrained_window: Size) -> State:
    return dict(
        relative_coords_table=coordinates_table(window, pretrained_window), relative_position_index=position_index(window)
    )


def _tables_flat(window: Size, pretrained_window: Size) -> State:
    tables = _tables(window, pretrained_window)
    return {**tables, 'relative_position_index': tables['relative_position_index'].flatten()}


def windows_of_coordinates(table: Tensor) -> tuple[Size, Size]:
    """(1, 2 h - 1, 2 w - 1, 2) log-coordinates as the official code saves them -> (window, pretrained window).

    An axis of W tokens has 2 W - 1 offsets; its largest coordinate t = log2(1 + 8 (W - 1) / (P - 1)) / 3 gives
    P = 1 + 8 (W - 1) / (2^(3 t) - 1). An axis of one token says nothing, and counts as trained with one. Tables that
    went through half precision are recognised by all their offsets together. Raises InputError for what is no such table.
    """
    if table.ndim != 4 or table.shape[0] != 1 or table.shape[3] != 2 or not table.shape[1] % 2 or not table.shape[2] % 2:
        raise InputError(
            f'a relative_coords_table has the shape {tuple(table.shape)}, but it is (1, 2 h - 1, 2 w - 1, 2); '
            'take the file as it was saved'
        )
    if not table.is_floating_point():
        raise InputError(
            f'a relative_coords_table has the type {table.dtype}, but coordinates are floating-point numbers; '
            'take the file as it was saved'
        )
    axes = [coordinates.detach().cpu() for coordinates in (table[0, :, 0, 0], table[0, 0, :, 1])]
    height, width = ((len(coordinates) + 1) // 2 for coordinates in axes)
    pretrained = [_pretrained_window_of(own, side) if side > 1 else 1 for own, side in zip(axes, (height, width))]
    return (height, width), (pretrained[0], pretrained[1])


def _pretrained_window_of(coordinates: Tensor, side: int) -> int:
    """(2 W - 1,) log-coordinates of an axis -> P. Raises InputError where no P gives them."""
    largest = coordinates.double().max().item()
    exact = 1 + 8 * (side - 1) / (2 ** (3 * largest) - 1) if largest > 0 else float('nan')
    nearest = round(exact) if 1 < exact < 10000 else 0
    for dtype in (coordinates.dtype, torch.float16, torch.bfloat16):  # of the table, and of what it may have been before
        errors = {}
        for candidate in range(max(nearest - 3, 2), nearest + 4):
            expected = log_coordinates(relative_offsets(side), candidate).to(dtype).double()
            errors[candidate] = (coordinates.double() - expected).abs().max().item()
        best = min(errors, key=errors.__getitem__, default=None)
        if best is not None and errors[best] <= 2 * torch.finfo(dtype).eps:
            return best
    raise InputError(
        f'a relative_coords_table of window {side} reaches {largest:.4f}, which no pretrained window gives (the '
        f'nearest is {exact:.2f}); it is no log-spaced table of SwinV2'
    )


# The libraries.


def _merges_in_first_stage(keys: State) -> bool:
    """The official code has a patch merging at the end of a stage, timm at the start of the next."""
    return any(key.startswith('layers.0.downsample.') for key in keys)


def _anchor(name: str) -> re.Pattern[str]:
    return re.compile(rf'(.*?\.)?{name}')


# Hugging Face holds q, k and v apart.
_QUERY_KEY_VALUE = Regrouping(
    ours=('attn.qkv.weight',),
    theirs=('attn.query.weight', 'attn.key.weight', 'attn.value.weight'),
    to_ours=lambda q, k, v: (torch.cat((q, k, v)),),
    to_theirs=lambda qkv: qkv.chunk(3),
)
# torchvision holds one bias for q, k and v, and zeroes that of k when it runs.
_QKV_BIAS = Regrouping(
    ours=('attn.q_bias', 'attn.v_bias'),
    theirs=('attn.qkv.bias',),
    to_ours=lambda bias: tuple(part.clone() for part in (bias.chunk(3)[0], bias.chunk(3)[2])),
    to_theirs=lambda q, v: (torch.cat((q, torch.zeros_like(q), v)),),
)


def _by_token(weight: Tensor) -> tuple[Tensor, ...]:
    return (weight.view(len(weight), -1, 4).transpose(1, 2)[:, [0, 2, 1, 3]].reshape(weight.shape),)


def _by_channel(weight: Tensor) -> tuple[Tensor, ...]:
    return (weight.view(len(weight), 4, -1)[:, [0, 2, 1, 3]].transpose(1, 2).reshape(weight.shape),)


# mmpretrain reads the 2 x 2 tokens of a patch merging channel by channel and row by row; the published order is token by token
# and column by column.
_MERGING_ORDER = Regrouping(
    ('downsample.reduction.weight',), ('downsample.reduction.weight',), to_ours=_by_token, to_theirs=_by_channel
)


def _constructor_arguments(sizes: Sizes) -> dict[str, object]:
    """Of the official class, and of timm's."""
    return dict(
        img_size=sizes.image, in_chans=sizes.channels, num_classes=sizes.classes, embed_dim=sizes.dim,
        depths=list(sizes.depths), num_heads=list(sizes.heads), window_size=max(sizes.windows), mlp_ratio=sizes.mlp_ratio,
        pretrained_window_sizes=list(sizes.pretrained_windows),
    )  # fmt: skip


def _mmpretrain_arguments(sizes: Sizes) -> dict[str, object]:
    arch = dict(
        embed_dims=sizes.dim, depths=list(sizes.depths), num_heads=list(sizes.heads),
        extra_norm_every_n_blocks=sizes.extra_norm_every,
    )  # fmt: skip
    return dict(
        arch=arch, img_size=sizes.image, in_channels=sizes.channels, window_size=list(sizes.windows),
        pretrained_window_sizes=list(sizes.pretrained_windows), out_indices=tuple(range(len(sizes.depths))),
    )  # fmt: skip


def _torchvision_arguments(sizes: Sizes) -> dict[str, object]:
    """Beside these ``block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2``."""
    return dict(
        patch_size=[4, 4], embed_dim=sizes.dim, depths=list(sizes.depths), num_heads=list(sizes.heads),
        window_size=[max(sizes.windows)] * 2, mlp_ratio=sizes.mlp_ratio, num_classes=sizes.classes or 1000,
        block='SwinTransformerBlockV2', downsample_layer='PatchMergingV2',
    )  # fmt: skip


def _huggingface_class(sizes: Sizes) -> str:
    return 'Swinv2ForImageClassification' if sizes.classes else 'Swinv2Model'


def _huggingface_config(sizes: Sizes) -> dict[str, Any]:
    labels = {f'LABEL_{i}': i for i in range(sizes.classes)}
    named = dict(id2label={str(i): label for label, i in labels.items()}, label2id=labels) if labels else {}
    return dict(
        architectures=[_huggingface_class(sizes)], model_type='swinv2', image_size=sizes.image, patch_size=4,
        num_channels=sizes.channels, embed_dim=sizes.dim, depths=list(sizes.depths), num_heads=list(sizes.heads),
        window_size=max(sizes.windows), mlp_ratio=sizes.mlp_ratio, pretrained_window_sizes=list(sizes.pretrained_windows),
        qkv_bias=True, hidden_act='gelu', layer_norm_eps=1e-5, use_absolute_embeddings=False, torch_dtype='float32', **named,
    )  # fmt: skip


OURS = SwinV2Format(
    name='mmvitscale',
    anchor=_anchor(r'stages\.\d+\.blocks\.\d+\.attn\.position_bias\.'),
    heads=('head.fc', 'head'),
    norms='out_norms.{i}',
    dropped=(),
)
OFFICIAL = SwinV2Format(
    name='official',
    library='official',
    anchor=_anchor(r'layers[._]\d+\.blocks\.\d+\.attn\.cpb_mlp\.'),
    fits=_merges_in_first_stage,
    blocks=Place('layers.{i}.blocks.{block}.'),
    merging=Place('layers.{i}.', first=-1),
    renamed={'attn.position_bias.mlp.': 'attn.cpb_mlp.'},
    heads=('head', 'head.fc'),
    decoder='decoder.0',
    derived=_tables,
    wrap=lambda weights: dict(model=weights),
    builder='SwinTransformerV2',
    arguments=_constructor_arguments,
)
TIMM = replace(
    OFFICIAL,
    name='timm',
    library='timm',
    fits=lambda keys: not _merges_in_first_stage(keys),
    blocks=Place('layers.{i}.blocks.{block}.', underscores=True),
    merging=Place('layers.{i}.', underscores=True),
    heads=('head.fc', 'head'),
    derived=lambda window, pretrained_window: {},
    wrap=lambda weights: weights,
    builder='timm.models.swin_transformer_v2.SwinTransformerV2',
)
HUGGING_FACE = SwinV2Format(
    name='Hugging Face',
    library='huggingface',
    anchor=_anchor(r'encoder\.layers\.\d+\.blocks\.\d+\.attention\.self\.continuous_position_bias_mlp\.'),
    blocks=Place('encoder.layers.{i}.blocks.{block}.'),
    merging=Place('encoder.layers.{i}.', first=-1),
    renamed={
        'attn.position_bias.mlp.': 'attention.self.continuous_position_bias_mlp.',
        'attn.query.': 'attention.self.query.',
        'attn.key.': 'attention.self.key.',
        'attn.value.': 'attention.self.value.',
        'attn.q_bias': 'attention.self.query.bias',
        'attn.v_bias': 'attention.self.value.bias',
        'attn.logit_scale': 'attention.self.logit_scale',
        'attn.proj.': 'attention.output.dense.',
        'norm1.': 'layernorm_before.',
        'norm2.': 'layernorm_after.',
        'mlp.fc1.': 'intermediate.dense.',
        'mlp.fc2.': 'output.dense.',
        'patch_embed.proj.': 'embeddings.patch_embeddings.projection.',
        'patch_embed.norm.': 'embeddings.norm.',
        'mask_token': 'embeddings.mask_token',
    },
    norms='layernorm',
    heads=('classifier',),
    decoder='decoder.0',
    dropped=(r'classifier\..*', r'decoder\..*'),
    regroupings=(_QUERY_KEY_VALUE,),
    backbone_prefix='swinv2.',
    builder=lambda sizes: f'transformers.{_huggingface_class(sizes)}.from_pretrained',
    config=_huggingface_config,
)
MMPRETRAIN = SwinV2Format(
    name='mmpretrain',
    library='mmpretrain',
    anchor=_anchor(r'stages\.\d+\.blocks\.\d+\.attn\.w_msa\.cpb_mlp\.'),
    renamed={
        'attn.position_bias.mlp.': 'attn.w_msa.cpb_mlp.',
        'attn.': 'attn.w_msa.',
        'extra_norm.': 'norm3.',
        'mlp.fc1.': 'ffn.layers.0.0.',
        'mlp.fc2.': 'ffn.layers.1.',
        'patch_embed.proj.': 'patch_embed.projection.',
    },
    norms='norm{i}',
    heads=('head.fc',),
    regroupings=(_MERGING_ORDER,),
    backbone_prefix='backbone.',
    derived=_tables,
    wrap=lambda weights: dict(state_dict=weights, meta={}),
    builder='mmpretrain.models.SwinTransformerV2',
    arguments=_mmpretrain_arguments,
    extra_norm=True,
    window_per_stage=True,
)
TORCHVISION = SwinV2Format(
    name='torchvision',
    library='torchvision',
    anchor=_anchor(r'features\.\d+\.\d+\.attn\.cpb_mlp\.'),
    # features: 0 is the stem, then blocks and patch merging by turns.
    blocks=Place('features.{i}.{block}.', step=2, first=1),
    merging=Place('features.{i}.', step=2),
    renamed={
        'attn.position_bias.mlp.': 'attn.cpb_mlp.',
        'mlp.fc1.': 'mlp.0.',
        'mlp.fc2.': 'mlp.3.',
        'downsample.': '',
        'patch_embed.proj.': 'features.0.0.',
        'patch_embed.norm.': 'features.0.2.',
    },
    decoder='decoder.0',
    regroupings=(_QKV_BIAS,),
    derived=_tables_flat,
    builder='torchvision.models.swin_transformer.SwinTransformer',
    arguments=_torchvision_arguments,
    any_pretrained_window=False,
)

register(OURS, OFFICIAL, TIMM, HUGGING_FACE, MMPRETRAIN, TORCHVISION)
