"""Checkpoints of other libraries -> our names: dict to dict, no file and no network involved.

SwinV2: the official repository (classifiers and SimMIM encoders), timm, Hugging Face transformers, mmpretrain,
torchvision, and our own, alone or inside a whole model. DeepViT: the official repository, whose names are ours. Every key
is used, or dropped on purpose and listed, or an error. Whether all weights are there, only the network can tell:
``door.py``.
"""

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import isqrt

import torch
from torch import Tensor

from ..errors import InputError, some_of
from .lineage import KEY, VERSION, GridLineage, Lineage, Window, WindowLineage, integers

State = dict[str, Tensor]


@dataclass(frozen=True)
class Converted:
    """The weights of a backbone under our names.

    family: 'SwinV2' or 'DeepViT'. source: the library they came from. prefix: what their names stood behind. weights: our
    state dict, without the lineage. heads: for the weights of a classifier and of SimMIM's decoder their names in
    mmpretrain, ``head.fc.*`` and ``neck.decoder.0.*``, and in the source. dropped: keys that the backbone has no use
    for. lineage: what they were learned with, as far as the source tells; None for a DeepViT whose grid it does not.
    """

    family: str
    source: str
    prefix: str
    weights: State
    dropped: list[str]
    lineage: Lineage | None
    heads: dict[str, str] = field(default_factory=dict)

    def state_dict(self, lineage: Lineage | None = None) -> State:
        """The weights together with what they were learned with: the checkpoint's lineage, or the one given."""
        lineage = lineage or self.lineage
        return {**self.weights, **({KEY: lineage.encode()} if lineage else {})}


# The names under which libraries put the dict of weights; what a user would fine-tune from comes first.
_WEIGHTS = ('state_dict', 'model', 'model_state', 'model_state_dict', 'module', 'state_dict_ema', 'model_ema', 'ema_state_dict')
_WRAPPERS = re.compile(r'^(module\.|_orig_mod\.)+|(?<=\.)_orig_mod\.')  # of DDP, EMA and torch.compile


def weights_in(content: dict) -> 'OrderedDict[str, Tensor]':
    """What a file held -> its weights: the dict of tensors at the top or under one of the usual names, without the
    prefixes of wrappers. Raises InputError where there is none."""
    for _ in range(2):  # Lightning and DeepSpeed may have one inside the other
        inside = [content[name] for name in _WEIGHTS if isinstance(content.get(name), dict) and content[name]]
        content = inside[0] if inside else content
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    weights = OrderedDict((unwrapped_name(key), value) for key, value in tensors.items())
    if len(weights) < len(tensors):
        raise InputError(
            'it holds weights twice, with and without the prefix of a wrapper (module., _orig_mod.); keep one of the two'
        )
    if not weights:
        raise InputError(
            f'it holds no weights; a checkpoint is a dict of tensors, at the top or under one of {", ".join(_WEIGHTS[:4])}'
        )
    metadata = getattr(content, '_metadata', None) or {}
    weights._metadata = OrderedDict(  # type: ignore[attr-defined]
        (unwrapped_name(f'{key}.')[:-1], value) for key, value in metadata.items()
    )
    return weights


def unwrapped_name(key: str) -> str:
    """``module.backbone._orig_mod.norm.weight`` -> ``backbone.norm.weight``"""
    return _WRAPPERS.sub('', key)


def find_backbones(weights: State) -> dict[str, list['_Layout']]:
    """Weights -> the prefixes behind which there are weights of a SwinV2 or a DeepViT, and their layouts there."""
    found: dict[str, list[_Layout]] = {}
    for layout in _LAYOUTS:
        for prefix in dict.fromkeys(match[1] or '' for match in map(layout.anchor.match, weights) if match):
            found.setdefault(prefix, []).append(layout)
    return found


def convert(weights: State, prefix: str | None = None) -> Converted:
    """Weights of a backbone, or of a model with one -> the backbone under our names.

    Args:
        weights: from ``weights_in``.
        prefix: what the names of the backbone's weights stand behind; None finds it.

    Raises:
        InputError: for what holds no backbone of a known layout or several, and for keys that are neither known nor
            dropped on purpose.
    """
    found = find_backbones(weights)
    if prefix is not None:
        prefix = unwrapped_name(prefix.rstrip('.') + '.') if prefix else prefix
        found = {start: layouts for start, layouts in found.items() if start == prefix}
    if not found:
        raise InputError(_unknown(weights, prefix))
    prefix = next(start for start in ('', 'backbone.', *found) if start in found)
    if len(found) > 1 and prefix not in ('', 'backbone.'):
        raise InputError(
            f'there are backbones behind the prefixes {", ".join(sorted(found))}; choose one with '
            "prefix: init_cfg=dict(type='Pretrained', checkpoint=..., prefix=...)"
        )
    layouts = found[prefix]
    inside = {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
    # The official code has a patch merging at the end of a stage, timm at the start of the next: the same anchor.
    layouts = [layout for layout in layouts if layout.tells is None or layout.tells(inside)]
    if len(layouts) > 1:
        raise InputError(
            f'the layouts of {" and ".join(layout.name for layout in layouts)} are mixed in it; take a file '
            'as one library wrote it'
        )
    (layout,) = layouts
    outside = [key for key in weights if not key.startswith(prefix)]
    converted = _convert(layout, prefix, inside, outside, getattr(weights, '_metadata', {}))
    return replace(converted, heads=_heads(layout, prefix, weights))


def _heads(layout: '_Layout', prefix: str, weights: State) -> dict[str, str]:
    """Names of heads in mmpretrain -> in the source, where they stand behind the backbone's prefix or beside it."""
    found = {}
    for key in weights:
        for pattern, name in layout.heads:
            match = re.fullmatch(pattern, key.removeprefix(prefix))
            if match:
                found[match.expand(name)] = key
    return found


def _unknown(weights: State, prefix: str | None) -> str:
    behind = f' behind the prefix {prefix!r}' if prefix else ''
    if any('relative_position_bias_table' in key for key in weights):
        return (
            'this is a SwinV1 checkpoint (it holds relative_position_bias_table), but a SwinV2 checkpoint is expected '
            '(with cpb_mlp); take one of the swinv2_* files'
        )
    return (
        f'it holds no SwinV2 or DeepViT of a known layout{behind} (official, timm, Hugging Face, mmpretrain, '
        f'torchvision, mmvitscale); its weights are called {some_of(sorted(weights))}'
    )


# How each library names its SwinV2. A rule is a pattern of their key and what it becomes; the first match counts.


@dataclass(frozen=True)
class _Layout:
    """name: of the library. anchor: a key that only this layout has, its first group what may stand before. locate: a key ->
    ('block', stage, block, rest) or ('merging', stage, None, rest), or None outside the stages; stages count from 0 and a
    patch merging belongs to the stage it leads to. stem, block: rules for keys outside stages and in a block (relative to
    it). heads: rules for what stands beside the backbone. dropped: patterns of keys outside the stages that are left out.
    fix: what is more than renaming. tells: of two layouts with the same anchor, whether it is this one. family: of the
    model."""

    name: str
    anchor: re.Pattern
    locate: Callable[[str], tuple | None] = lambda key: None
    stem: list = field(default_factory=list)
    block: list = field(default_factory=list)
    heads: list = field(default_factory=list)
    dropped: tuple[str, ...] = ()
    fix: Callable[[State], State] = lambda weights: weights
    tells: Callable[[State], bool] | None = None
    family: str = 'SwinV2'


_WB = '(weight|bias)'
_MERGING = [(rf'(reduction\.weight|norm\.{_WB})', r'downsample.\1')]
_DERIVED = ('relative_coords_table', 'relative_position_index', 'attn_mask', 'k_bias')


def _stages(pattern: str, merging_leads_to: int) -> Callable[[str], tuple | None]:
    """Locator for ``<pattern><stage>.blocks.<block>.rest`` and ``<pattern><stage>.downsample.rest``, where a patch merging
    stands in its own stage (0) or at the end of the one before (1)."""

    def locate(key):
        match = re.fullmatch(rf'{pattern}(\d+)\.blocks\.(\d+)\.(.*)', key)
        if match:
            return 'block', int(match[1]), int(match[2]), match[3]
        match = re.fullmatch(rf'{pattern}(\d+)\.downsample\.(.*)', key)
        return match and ('merging', int(match[1]) + merging_leads_to, None, match[2])

    return locate


def _merges_in_first_stage(keys: State) -> bool:
    return any(key.startswith('layers.0.downsample.') for key in keys)


def _locate_torchvision(key: str) -> tuple | None:
    """features: 0 is the stem, then blocks and patch merging by turns."""
    match = re.fullmatch(r'features\.(\d+)\.(\d+)\.(.*)', key)
    if match and int(match[1]) % 2:
        return 'block', int(match[1]) // 2, int(match[2]), match[3]
    match = re.fullmatch(r'features\.(\d+)\.((?:reduction|norm)\..*)', key)
    return ('merging', int(match[1]) // 2, None, match[2]) if match else None


def _join_query_key_value(weights: State) -> State:
    """Hugging Face holds q, k and v apart."""
    out = dict(weights)
    for key in weights:
        if key.endswith('attn.query.weight'):
            parts = [key.replace('query', name) for name in ('query', 'key', 'value')]
            if all(part in out for part in parts):
                out[key.replace('query', 'qkv')] = torch.cat([out.pop(part) for part in parts])
    return out


def _split_qkv_bias(weights: State) -> State:
    """torchvision holds one bias for q, k and v, and zeroes that of k when it runs."""
    out = dict(weights)
    for key in weights:
        if key.endswith('attn.qkv.bias'):
            q, _, v = out.pop(key).chunk(3)
            out[key.replace('qkv.bias', 'q_bias')], out[key.replace('qkv.bias', 'v_bias')] = q.clone(), v.clone()
    return out


def _reorder_merging(weights: State) -> State:
    """mmpretrain reads the 2 x 2 tokens of a patch merging channel by channel and row by row; the published order is
    token by token and column by column."""
    out = dict(weights)
    for key, weight in weights.items():
        if key.endswith('downsample.reduction.weight'):
            by_token = weight.view(weight.shape[0], -1, 4).transpose(1, 2)
            out[key] = by_token[:, [0, 2, 1, 3]].reshape(weight.shape)
    return out


_OWN_BLOCK = [
    (r'attn\.position_bias\.(mlp\.(?:0\.weight|0\.bias|2\.weight)|table)', r'attn.position_bias.\1'),
    (r'(attn\.(?:qkv\.weight|q_bias|v_bias|logit_scale|proj\.(?:weight|bias)))', r'\1'),
    (rf'((?:pre_)?norm1|(?:pre_)?norm2|extra_norm|mlp\.fc1|mlp\.fc2)\.{_WB}', r'\1.\2'),
]
_OFFICIAL_BLOCK = [(r'attn\.cpb_mlp\.(0\.weight|0\.bias|2\.weight)', r'attn.position_bias.mlp.\1'), *_OWN_BLOCK[1:]]
_MASK_TOKEN = (r'(?:embeddings\.)?mask_token', 'mask_token')
_HEADS = [(rf'(?:head|head\.fc|classifier)\.{_WB}', r'head.fc.\1'), (rf'decoder\.0\.{_WB}', r'neck.decoder.0.\1')]
_OFFICIAL_STEM = [
    (rf'patch_embed\.(proj|norm)\.{_WB}', r'patch_embed.\1.\2'),
    (rf'norm\.{_WB}', r'out_norms.{last}.\1'),
    _MASK_TOKEN,
]
_OFFICIAL_ANCHOR = re.compile(r'(.*?\.)?layers[._]\d+\.blocks\.\d+\.attn\.cpb_mlp\.')

_LAYOUTS = [
    _Layout(
        name='mmvitscale',
        anchor=re.compile(r'(.*?\.)?stages\.\d+\.blocks\.\d+\.attn\.position_bias\.'),
        locate=_stages(r'stages\.', 0),
        stem=[_OFFICIAL_STEM[0], _MASK_TOKEN, (rf'(out_norms\.\d+)\.{_WB}', r'\1.\2')],
        block=_OWN_BLOCK,
        heads=_HEADS[:1],
    ),
    _Layout(
        name='official',
        anchor=_OFFICIAL_ANCHOR,
        tells=_merges_in_first_stage,
        locate=_stages(r'layers\.', 1),
        stem=_OFFICIAL_STEM,
        block=_OFFICIAL_BLOCK,
        heads=_HEADS,
        dropped=(r'head\..*',),
    ),
    _Layout(
        name='timm',
        anchor=_OFFICIAL_ANCHOR,
        tells=lambda keys: not _merges_in_first_stage(keys),
        locate=_stages(r'layers[._]', 0),
        stem=_OFFICIAL_STEM,
        block=_OFFICIAL_BLOCK,
        heads=_HEADS,
        dropped=(r'head\..*',),
    ),
    _Layout(
        name='Hugging Face',
        anchor=re.compile(r'(.*?\.)?encoder\.layers\.\d+\.blocks\.\d+\.attention\.self\.continuous_position_bias_mlp\.'),
        locate=_stages(r'encoder\.layers\.', 1),
        stem=[
            (rf'embeddings\.patch_embeddings\.projection\.{_WB}', r'patch_embed.proj.\1'),
            (rf'embeddings\.norm\.{_WB}', r'patch_embed.norm.\1'),
            (rf'layernorm\.{_WB}', r'out_norms.{last}.\1'),
            _MASK_TOKEN,
        ],
        block=[
            (r'attention\.self\.continuous_position_bias_mlp\.(.*)', r'attn.position_bias.mlp.\1'),
            (r'attention\.self\.(query|key|value)\.weight', r'attn.\1.weight'),
            (r'attention\.self\.query\.bias', 'attn.q_bias'),
            (r'attention\.self\.value\.bias', 'attn.v_bias'),
            (r'attention\.self\.logit_scale', 'attn.logit_scale'),
            (rf'attention\.output\.dense\.{_WB}', r'attn.proj.\1'),
            (rf'layernorm_before\.{_WB}', r'norm1.\1'),
            (rf'layernorm_after\.{_WB}', r'norm2.\1'),
            (rf'intermediate\.dense\.{_WB}', r'mlp.fc1.\1'),
            (rf'output\.dense\.{_WB}', r'mlp.fc2.\1'),
        ],
        heads=_HEADS,
        dropped=(r'classifier\..*', r'decoder\..*'),
        fix=_join_query_key_value,
    ),
    _Layout(
        name='mmpretrain',
        anchor=re.compile(r'(.*?\.)?stages\.\d+\.blocks\.\d+\.attn\.w_msa\.cpb_mlp\.'),
        locate=_stages(r'stages\.', 0),
        stem=[
            (rf'patch_embed\.projection\.{_WB}', r'patch_embed.proj.\1'),
            (rf'patch_embed\.norm\.{_WB}', r'patch_embed.norm.\1'),
            (rf'norm(\d)\.{_WB}', r'out_norms.\1.\2'),
            _MASK_TOKEN,
        ],
        block=[
            (r'attn\.w_msa\.cpb_mlp\.(0\.weight|0\.bias|2\.weight)', r'attn.position_bias.mlp.\1'),
            (r'attn\.w_msa\.(qkv\.weight|q_bias|v_bias|logit_scale|proj\.weight|proj\.bias)', r'attn.\1'),
            (rf'(norm1|norm2)\.{_WB}', r'\1.\2'),
            (rf'norm3\.{_WB}', r'extra_norm.\1'),
            (rf'ffn\.layers\.0\.0\.{_WB}', r'mlp.fc1.\1'),
            (rf'ffn\.layers\.1\.{_WB}', r'mlp.fc2.\1'),
        ],
        heads=_HEADS[:1],
        dropped=(r'head\..*',),
        fix=_reorder_merging,
    ),
    _Layout(
        name='torchvision',
        anchor=re.compile(r'(.*?\.)?features\.\d+\.\d+\.attn\.cpb_mlp\.'),
        locate=_locate_torchvision,
        stem=[
            (rf'features\.0\.0\.{_WB}', r'patch_embed.proj.\1'),
            (rf'features\.0\.2\.{_WB}', r'patch_embed.norm.\1'),
            _OFFICIAL_STEM[1],
            _MASK_TOKEN,
        ],
        block=[
            *_OFFICIAL_BLOCK,
            (r'attn\.qkv\.bias', 'attn.qkv.bias'),
            (rf'mlp\.0\.{_WB}', r'mlp.fc1.\1'),
            (rf'mlp\.3\.{_WB}', r'mlp.fc2.\1'),
        ],
        heads=_HEADS,
        dropped=(r'head\..*',),
        fix=_split_qkv_bias,
    ),
    _Layout(
        name='official DeepViT',
        family='DeepViT',
        # Not the blocks of a stage, which SwinV2 has.
        anchor=re.compile(r'((?:(?!(?:layers|stages)[._]\d+\.).)*?\.)?blocks\.\d+\.attn\.(?:qkv\.weight|reatten_matrix\.)'),
        stem=[(r'(cls_token|pos_embed|mask_token|(?:patch_embed|blocks|norm)\..*)', r'\1')],
        heads=_HEADS,
        dropped=(r'head\..*',),
    ),
]


def _convert(layout: _Layout, prefix: str, keys: State, outside: list[str], metadata: dict) -> Converted:
    keys = dict(keys)
    entry, references = keys.pop(KEY, None), _pop_references(keys)
    version = (metadata.get(prefix[:-1]) or {}).get('version')
    if entry is not None and isinstance(version, int) and version > VERSION:
        raise InputError(
            f'the weights were written by a newer mmvitscale (format {version}, this one knows up to '
            f'{VERSION}); update mmvitscale'
        )
    stages = 1 + max((place[1] for place in map(layout.locate, keys) if place), default=-1)
    weights, dropped, tables = _rename(layout, prefix, keys, stages)
    dropped = [*outside, *dropped]
    if layout.family == 'DeepViT':
        official = any(key.startswith('head.') for key in keys)
        lineage = GridLineage.decode(entry) if entry is not None else _square_grid(weights, official)
        source = 'mmvitscale' if entry is not None else layout.name
        return Converted('DeepViT', source, prefix, weights, dropped, lineage)
    if entry is not None:
        lineage = WindowLineage.decode(entry)
        if len(lineage.references) != stages:
            raise InputError(
                f'the lineage of the weights is of {len(lineage.references)} stages, but there are {stages}; '
                'take the file as it was saved'
            )
    elif layout.name == 'mmvitscale':  # of a version that recorded the references alone
        table = any(key.endswith('.table') for key in weights)
        known = tuple(None if table else references.get(i) for i in range(stages))
        lineage = WindowLineage('table' if table else None, known, (None,) * stages)
    else:
        pairs = [windows_of_coordinates(tables[i]) if i in tables else (None, None) for i in range(stages)]
        windows, known = (tuple(column) for column in zip(*pairs))
        lineage = WindowLineage('log_cpb', known, windows)
    return Converted('SwinV2', layout.name, prefix, weights, dropped, lineage)


def _rename(layout: _Layout, prefix: str, keys: State, stages: int) -> tuple[State, list[str], dict[int, Tensor]]:
    """Weights under our names; the keys that are dropped; the table of coordinates of each stage that has one."""
    weights, dropped, unknown, tables = {}, [], [], {}
    for key, value in keys.items():
        kind, stage, block, rest = layout.locate(key) or ('stem', None, None, key)
        if rest.rsplit('.', 1)[-1] in _DERIVED or any(re.fullmatch(pattern, key) for pattern in layout.dropped):
            dropped.append(prefix + key)
            if rest.endswith('relative_coords_table'):
                first = tables.setdefault(stage, value)
                if first.shape != value.shape or not torch.equal(first, value):
                    raise InputError(
                        f'the blocks of stage {stage} have different relative_coords_tables, so they were '
                        'learned with different windows; take the file as it was saved'
                    )
            continue
        rules, start = {
            'stem': (layout.stem, ''),
            'block': (layout.block, f'stages.{stage}.blocks.{block}.'),
            'merging': (_MERGING, f'stages.{stage}.'),
        }[kind]
        for pattern, name in rules:
            match = re.fullmatch(pattern, rest)
            if match:
                weights[start + match.expand(name.replace('{last}', str(stages - 1)))] = value
                break
        else:
            unknown.append(prefix + key)
    if unknown:
        raise InputError(
            f'the checkpoint has the layout of {layout.name}, but {len(unknown)} of its keys are not known '
            f'there: {some_of(unknown)}'
        )
    try:
        return layout.fix(weights), dropped, tables
    except (RuntimeError, IndexError, ValueError) as error:
        raise InputError(
            f'the checkpoint has the layout of {layout.name}, but not the shapes that go with it ({error}); '
            'take the file as it was saved'
        ) from error


def _pop_references(keys: State) -> dict[int, Window]:
    """Take the buffers out in which mmvitscale 0.1.0 kept reference windows -> the window of each stage."""
    found = {}
    for key in [key for key in keys if re.fullmatch(r'stages\.\d+\.reference_window', key)]:
        found[int(key.split('.')[1])] = tuple(integers(keys.pop(key), (2,)))
    return found


def _square_grid(weights: State, official: bool) -> GridLineage | None:
    """The grid of an official DeepViT is square, and its statistics are of all of it. Without its classifier the weights may
    be ours from before grids were recorded: None."""
    embedding = weights.get('pos_embed')
    positions = embedding.shape[1] - 1 if embedding is not None and embedding.ndim == 3 else 0
    side = isqrt(max(positions, 0))
    if not official or positions < 1 or side**2 != positions:
        return None
    blocks = 1 + max((int(key.split('.')[1]) for key in weights if key.startswith('blocks.')), default=-1)
    return GridLineage((side, side), (1 + positions,) * blocks)  # there every block attends to all


def windows_of_coordinates(table: Tensor) -> tuple[Window, Window]:
    """(1, 2 h - 1, 2 w - 1, 2) log-coordinates as the official code saves them -> (window, reference window).

    An axis of W tokens has 2 W - 1 offsets; its largest coordinate t = log2(1 + 8 (W - 1) / (P - 1)) / 3 gives
    P = 1 + 8 (W - 1) / (2^(3 t) - 1). An axis of one token tells nothing, and counts as learned with one. Tables that
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
    window, reference = [], []
    for axis in range(2):
        coordinates = table[0, :, 0, 0] if axis == 0 else table[0, 0, :, 1]
        side = (len(coordinates) + 1) // 2
        window.append(side)
        reference.append(_reference_of(coordinates.detach().cpu(), side) if side > 1 else 1)
    return (window[0], window[1]), (reference[0], reference[1])


def _reference_of(coordinates: Tensor, side: int) -> int:
    """(2 W - 1,) log-coordinates of an axis -> P. Raises InputError where no P gives them."""
    largest = coordinates.double().max().item()
    exact = 1 + 8 * (side - 1) / (2 ** (3 * largest) - 1) if largest > 0 else float('nan')
    nearest = round(exact) if 1 < exact < 10000 else 0
    offsets = torch.arange(1 - side, side, dtype=torch.float64, device='cpu')
    for dtype in (coordinates.dtype, torch.float16, torch.bfloat16):  # of the table, and of what it may have been before
        fits = {}
        for candidate in range(max(nearest - 3, 2), nearest + 4):
            u = offsets * (8 / (candidate - 1))  # as log_coordinates in models/layers, which checkpoints do not import
            expected = (u.sign() * torch.log2(1 + u.abs()) / 3).to(dtype).double()
            fits[candidate] = (coordinates.double() - expected).abs().max().item()
        best = min(fits, key=fits.get, default=None)
        if best is not None and fits[best] <= 2 * torch.finfo(dtype).eps:
            return best
    raise InputError(
        f'a relative_coords_table of window {side} reaches {largest:.4f}, which no reference window gives (the '
        f'nearest is {exact:.2f}); it is no log-spaced table of SwinV2'
    )
