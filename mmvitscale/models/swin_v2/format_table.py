"""A table of names that is read in both directions: how a library's SwinV2 becomes ours, and ours becomes the library's.

``checkpoint_formats.py`` has a table for each library. One without a place for what a backbone has (another kind of block,
windows that are no squares) is refused: the weights would load there and compute something else.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mmvitscale.checkpoints.convert import CheckpointFormat, Converted, ConvertedBack, Read, State
from mmvitscale.checkpoints.metadata import Size, WeightMetadata, WindowMetadata, integers, show_windows
from mmvitscale.errors import InputError
from mmvitscale.models.swin_v2.coordinates_table import windows_of_coordinates

OURS = 'mmvitscale'
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


_OLD_WINDOW = re.compile(r'stages\.(\d+)\.reference_window')  # of mmvitscale 0.1.0
_OUR_BLOCKS, _OUR_MERGING = Place('stages.{i}.blocks.{block}.'), Place('stages.{i}.')


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
    stage. stage_norms: another name of those of stages, its first group the stage, from 1. regroupings: weights that it holds
    in other tensors. dropped: patterns of keys outside the stages that are left out. fits: of formats with the same anchor,
    whether keys are of this one.

    To write: backbone_prefix: of the backbone in a classifier. derived: for each block's ``attn.`` what its state dict holds of
    the windows. wrap: weights -> content of a file. builder, arguments: what builds the model. config: what stands beside
    the weights. extra_norm: whether it has norms on the main branch. any_pretrained_window: whether it has windows other than
    the pretrained ones. window_per_stage: whether each stage has a window of its own.
    """

    family = 'SwinV2'

    blocks: Place = _OUR_BLOCKS
    merging: Place = _OUR_MERGING
    renamed: dict[str, str] = field(default_factory=dict)
    norms: str = 'norm'
    stage_norms: re.Pattern[str] | None = None
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
        elif self.name == OURS:  # of version 0.1.0, which recorded the pretrained windows alone
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
            out.update({f'{self.head}.{name}': value.clone() for name, value in heads.items()})
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
        block = _OUR_BLOCKS.find(key)
        if block:
            return self.blocks.name(*block[:2]) + self._renamed(block[2])
        merging = _OUR_MERGING.find(key)
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
        tables = ['attn.position_bias.table'] if self.name == OURS else []
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
                weights[_OUR_BLOCKS.name(*block[:2]) + name] = value
            elif merging and name:
                weights[_OUR_MERGING.name(merging[0]) + name] = value
            elif norm:
                stage = norm[1] if '{i}' in self.norms else stages - 1
                weights[f'out_norms.{stage}.{norm[norm.lastindex or 1]}'] = value
            elif self.stage_norms and (of_stage := self.stage_norms.fullmatch(key)):
                weights[f'out_norms.{int(of_stage[1]) - 1}.{of_stage[2]}'] = value
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
        places = [found[:2] for key in weights if (found := _OUR_BLOCKS.find(key))]
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
        match = _OLD_WINDOW.fullmatch(key)
        if match:
            height, width = integers(value, (2,))
            windows[int(match[1])] = (height, width)
    return windows, {key: value for key, value in keys.items() if not _OLD_WINDOW.fullmatch(key)}
