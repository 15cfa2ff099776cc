"""Checkpoints of other libraries -> our names: dict to dict, no file involved.

SwinV2: the official repository (classifiers and SimMIM encoders), timm, Hugging Face transformers, mmpretrain,
torchvision, and our own. DeepViT: the official repository, whose names are ours. Every key is used, or dropped on
purpose and listed, or an error.
"""

import re
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from ..errors import InputError, some_of
from ..models.backbones import deepvit, swin_v2
from ..models.backbones.deepvit import DeepViT
from ..models.backbones.swin_v2 import SwinTransformerV2
from ..models.layers.windows import Window

State = Dict[str, Tensor]


@dataclass(frozen=True)
class Converted:
    """A checkpoint of a backbone under our names.

    model: 'SwinV2' or 'DeepViT'. source: the library it came from. weights: our state dict, without reference windows.
    dropped: its keys that are left out on purpose. windows, references: for each stage of a SwinV2 the window it ran
    with and the one its position bias was learned with, None where the checkpoint does not tell. arch: ``arch`` of the
    backbone that it fits, as far as weights tell.
    """

    model: str
    source: str
    weights: State
    dropped: List[str]
    windows: Tuple[Optional[Window], ...]
    references: Tuple[Optional[Window], ...]
    arch: dict

    def state_dict(self, references: Optional[Sequence[Optional[Window]]] = None) -> State:
        """The weights together with those reference windows that are known: the checkpoint's own, else those given."""
        known = [own or given for own, given in zip(self.references, references or self.references)]
        windows = {f'stages.{i}.reference_window': torch.tensor(window) for i, window in enumerate(known) if window}
        return {**self.weights, **windows}


def describe_arch(arch: dict) -> str:
    """Sizes -> ``SwinV2-tiny (...)``, or ``SwinV2 (...)`` where no variant has them; ``deepvit-16b (...)`` likewise."""
    if 'depth' in arch:  # of blocks in a row: no stages
        names = [name for name in deepvit.ARCHS if all(deepvit.resolve_arch(name)[key] == arch[key] for key in arch)]
        mixing = f'{arch["re_attention"]} with Re-attention'
        return f'{names[0] if names else "DeepViT"} ({arch["embed_dims"]} channels, {arch["depth"]} blocks, {mixing})'
    sizes = {key: arch[key] for key in ('embed_dims', 'depths', 'num_heads')}
    names = [name for name, variant in swin_v2.ARCHS.items() if all(variant[key] == sizes[key] for key in sizes)]
    depths, heads = (','.join(map(str, sizes[key])) for key in ('depths', 'num_heads'))
    return f'SwinV2{"-" + names[0] if names else ""} ({sizes["embed_dims"]} channels, depths {depths}, heads {heads})'


def convert_checkpoint(checkpoint: dict) -> Converted:
    """A checkpoint as it was read, of a SwinV2 or a DeepViT -> its backbone under our names. Raises InputError."""
    weights = _find_weights(checkpoint)
    for prefix in _PREFIXES:
        if prefix + 'cls_token' in weights:
            return convert_deepvit(checkpoint, prefix)
    return convert_swin_v2(checkpoint)


def convert_deepvit(checkpoint: dict, prefix: str = '') -> Converted:
    """A checkpoint of the official DeepViT code, or of ours -> the same without its head.

    Raises:
        InputError: for weights that are missing or misshapen, and for keys that no DeepViT has.
    """
    found = _find_weights(checkpoint)
    dropped = [key for key in found if not key.startswith(prefix) or key.startswith(prefix + 'head.')]
    weights = {key[len(prefix):]: value for key, value in found.items() if key not in dropped}
    blocks = {int(match[1]) for match in (re.match(r'blocks\.(\d+)\.', key) for key in weights) if match}
    mixing = sorted({int(key.split('.')[1]) for key in weights if key.endswith('attn.reatten_matrix.weight')})
    depth = 1 + max(blocks, default=-1)
    if not depth or mixing != list(range(depth - len(mixing), depth)):
        raise InputError(f'this looks like a ViT, but Re-attention is in the blocks {mixing} of {depth}, and a DeepViT '
                         'has it in its last ones; a checkpoint of DeepViT or of a plain ViT is expected')
    try:
        dim, hidden = weights['cls_token'].shape[-1], weights['blocks.0.mlp.fc1.bias'].shape[0]
        arch = dict(embed_dims=dim, depth=depth, re_attention=len(mixing), mlp_ratio=hidden / dim,
                    stem='conv' if 'patch_embed.conv1.weight' in weights else 'linear')
        if mixing:
            arch['num_heads'] = weights[f'blocks.{mixing[0]}.attn.var_norm.weight'].shape[0]
        # One row of as many positions: which grid it is does not show in the shapes.
        img_size = DeepViT.patch_size, DeepViT.patch_size * (weights['pos_embed'].shape[1] - 1)
        with torch.device('meta'):
            model = DeepViT(arch if mixing else {**arch, 'num_heads': 1}, img_size)
    except (KeyError, ValueError) as error:
        raise InputError(f'the checkpoint is incomplete: {error} cannot be made out; download or convert it '
                         'again') from error
    _check_against(model, weights, describe_arch(arch), optional=('norm.', ))
    return Converted('DeepViT', 'official', weights, dropped, (), (), arch)


def convert_swin_v2(checkpoint: dict) -> Converted:
    """A checkpoint as it was read -> its SwinV2 backbone under our names.

    Raises:
        InputError: for what is no SwinV2 checkpoint, for weights that are missing or misshapen, and for keys that are
            neither known nor dropped on purpose.
    """
    weights = _find_weights(checkpoint)
    for prefix in _PREFIXES:
        inside = {key[len(prefix):]: value for key, value in weights.items() if key.startswith(prefix)}
        for layout in _LAYOUTS:
            if layout.fits(inside):
                outside = [key for key in weights if not key.startswith(prefix)]
                return _convert(layout, inside, outside)
    if any('relative_position_bias_table' in key for key in weights):
        raise InputError('this is a SwinV1 checkpoint (it holds relative_position_bias_table), but a SwinV2 checkpoint '
                         'is expected (with cpb_mlp); take one of the swinv2_* files')
    raise InputError('this is no SwinV2 checkpoint of a known layout (official, timm, Hugging Face, mmpretrain, '
                     f'torchvision, mmvitscale); it holds {sorted(weights)[:3] or "no weights"}')


# How each library names its SwinV2. A rule is a pattern of their key and what it becomes; the first match counts.


@dataclass(frozen=True)
class _Layout:
    """signature: patterns of keys that every checkpoint of the layout has. stem, block, merging: rules for keys
    outside stages, in a block (relative to it) and in a patch merging (relative to it). locate: a key ->
    ('block', stage, block, rest) or ('merging', stage, None, rest), or None outside the stages; stages count from 0
    and a patch merging belongs to the stage it leads to. dropped: patterns of keys outside the stages that are left
    out. fix: what is more than renaming."""

    name: str
    signature: Tuple[str, ...]
    locate: Callable[[str], Optional[tuple]]
    stem: list
    block: list
    dropped: Tuple[str, ...] = ()
    fix: Callable[[State], State] = lambda weights: weights

    def fits(self, keys) -> bool:
        return all(any(re.fullmatch(pattern, key) for key in keys) for pattern in self.signature)


_WB = '(weight|bias)'
_MERGING = [(rf'(reduction\.weight|norm\.{_WB})', r'downsample.\1')]
_DERIVED = ('relative_coords_table', 'relative_position_index', 'attn_mask', 'k_bias')


def _stages(pattern: str, merging_leads_to: int) -> Callable[[str], Optional[tuple]]:
    """Locator for ``<pattern>.<stage>.blocks.<block>.rest`` and ``<pattern>.<stage>.downsample.rest``, where a patch
    merging stands in its own stage (0) or at the end of the one before (1)."""

    def locate(key):
        match = re.fullmatch(rf'{pattern}\.(\d+)\.blocks\.(\d+)\.(.*)', key)
        if match:
            return 'block', int(match[1]), int(match[2]), match[3]
        match = re.fullmatch(rf'{pattern}\.(\d+)\.downsample\.(.*)', key)
        return match and ('merging', int(match[1]) + merging_leads_to, None, match[2])

    return locate


def _locate_torchvision(key: str) -> Optional[tuple]:
    """features: 0 is the stem, then blocks and patch merging by turns."""
    match = re.fullmatch(r'features\.(\d+)\.(\d+)\.(.*)', key)
    if match and int(match[1]) % 2:
        return 'block', int(match[1]) // 2, int(match[2]), match[3]
    match = re.fullmatch(r'features\.(\d+)\.((?:reduction|norm)\..*)', key)
    return match and ('merging', int(match[1]) // 2, None, match[2])


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


_OWN_BLOCK = [(r'attn\.position_bias\.(mlp\.(?:0\.weight|0\.bias|2\.weight)|table)', r'attn.position_bias.\1'),
              (r'(attn\.(?:qkv\.weight|q_bias|v_bias|logit_scale|proj\.(?:weight|bias)))', r'\1'),
              (rf'(norm1|norm2|extra_norm|mlp\.fc1|mlp\.fc2)\.{_WB}', r'\1.\2')]
_OFFICIAL_BLOCK = [(r'attn\.cpb_mlp\.(0\.weight|0\.bias|2\.weight)', r'attn.position_bias.mlp.\1'), *_OWN_BLOCK[1:]]
_OFFICIAL_STEM = [(rf'patch_embed\.(proj|norm)\.{_WB}', r'patch_embed.\1.\2'),
                  (rf'norm\.{_WB}', r'out_norms.{last}.\1')]
_OFFICIAL_KEY = r'layers\.0\.blocks\.0\.attn\.cpb_mlp\.0\.weight'

_LAYOUTS = [
    _Layout(
        name='mmvitscale',
        signature=(r'stages\.0\.blocks\.0\.attn\.position_bias\..*', ),
        locate=_stages('stages', 0),
        stem=[*_OFFICIAL_STEM[:1], (rf'(out_norms\.\d+)\.{_WB}', r'\1.\2')],
        block=_OWN_BLOCK),
    _Layout(
        name='official',
        signature=(_OFFICIAL_KEY, r'layers\.0\.downsample\..*'),
        locate=_stages('layers', 1),
        stem=_OFFICIAL_STEM,
        block=_OFFICIAL_BLOCK,
        dropped=(r'head\..*', 'mask_token')),
    _Layout(
        name='timm',
        signature=(_OFFICIAL_KEY, ),
        locate=_stages('layers', 0),
        stem=_OFFICIAL_STEM,
        block=_OFFICIAL_BLOCK,
        dropped=(r'head\..*', )),
    _Layout(
        name='Hugging Face',
        signature=(r'encoder\.layers\.0\.blocks\.0\.attention\.self\.continuous_position_bias_mlp\.0\.weight', ),
        locate=_stages(r'encoder\.layers', 1),
        stem=[(rf'embeddings\.patch_embeddings\.projection\.{_WB}', r'patch_embed.proj.\1'),
              (rf'embeddings\.norm\.{_WB}', r'patch_embed.norm.\1'), (rf'layernorm\.{_WB}', r'out_norms.{last}.\1')],
        block=[(r'attention\.self\.continuous_position_bias_mlp\.(.*)', r'attn.position_bias.mlp.\1'),
               (r'attention\.self\.(query|key|value)\.weight', r'attn.\1.weight'),
               (r'attention\.self\.query\.bias', 'attn.q_bias'), (r'attention\.self\.value\.bias', 'attn.v_bias'),
               (r'attention\.self\.logit_scale', 'attn.logit_scale'),
               (rf'attention\.output\.dense\.{_WB}', r'attn.proj.\1'), (rf'layernorm_before\.{_WB}', r'norm1.\1'),
               (rf'layernorm_after\.{_WB}', r'norm2.\1'), (rf'intermediate\.dense\.{_WB}', r'mlp.fc1.\1'),
               (rf'output\.dense\.{_WB}', r'mlp.fc2.\1')],
        dropped=(r'classifier\..*', r'decoder\..*', r'embeddings\.mask_token'),
        fix=_join_query_key_value),
    _Layout(
        name='mmpretrain',
        signature=(r'stages\.0\.blocks\.0\.attn\.w_msa\.cpb_mlp\.0\.weight', ),
        locate=_stages('stages', 0),
        stem=[(rf'patch_embed\.projection\.{_WB}', r'patch_embed.proj.\1'),
              (rf'patch_embed\.norm\.{_WB}', r'patch_embed.norm.\1'), (rf'norm(\d)\.{_WB}', r'out_norms.\1.\2')],
        block=[(r'attn\.w_msa\.cpb_mlp\.(0\.weight|0\.bias|2\.weight)', r'attn.position_bias.mlp.\1'),
               (r'attn\.w_msa\.(qkv\.weight|q_bias|v_bias|logit_scale|proj\.weight|proj\.bias)', r'attn.\1'),
               (rf'(norm1|norm2)\.{_WB}', r'\1.\2'), (rf'norm3\.{_WB}', r'extra_norm.\1'),
               (rf'ffn\.layers\.0\.0\.{_WB}', r'mlp.fc1.\1'), (rf'ffn\.layers\.1\.{_WB}', r'mlp.fc2.\1')],
        dropped=(r'head\..*', 'mask_token'),
        fix=_reorder_merging),
    _Layout(
        name='torchvision',
        signature=(r'features\.1\.0\.attn\.cpb_mlp\.0\.weight', ),
        locate=_locate_torchvision,
        stem=[(rf'features\.0\.0\.{_WB}', r'patch_embed.proj.\1'), (rf'features\.0\.2\.{_WB}', r'patch_embed.norm.\1'),
              _OFFICIAL_STEM[1]],
        block=[*_OFFICIAL_BLOCK, (r'attn\.qkv\.bias', 'attn.qkv.bias'), (rf'mlp\.0\.{_WB}', r'mlp.fc1.\1'),
               (rf'mlp\.3\.{_WB}', r'mlp.fc2.\1')],
        dropped=(r'head\..*', ),
        fix=_split_qkv_bias),
]

# What a backbone's keys may stand behind: wrappers, tasks, SimMIM's encoder. Keys beside it are other parts' weights.
_PREFIXES = ('', 'module.', 'model.', 'backbone.', 'encoder.', 'swinv2.', 'module.backbone.', 'module.encoder.',
             'model.backbone.')


def _find_weights(checkpoint: dict) -> State:
    """The dict of tensors: at the top, or under one of the names that libraries use for it."""
    for name in ('state_dict', 'model', 'model_state', 'state_dict_ema', 'model_ema'):
        if isinstance(checkpoint.get(name), dict):
            checkpoint = checkpoint[name]
            break
    return {key: value for key, value in checkpoint.items() if isinstance(value, Tensor)}


def _convert(layout: _Layout, keys: State, outside: List[str]) -> Converted:
    weights, dropped, unknown, tables = {}, list(outside), [], {}
    stages = 1 + max(place[1] for place in map(layout.locate, keys) if place)
    for key, value in keys.items():
        if key.endswith('.reference_window'):  # our own: read below
            continue
        kind, stage, block, rest = layout.locate(key) or ('stem', None, None, key)
        if rest.rsplit('.', 1)[-1] in _DERIVED or any(re.fullmatch(pattern, key) for pattern in layout.dropped):
            dropped.append(key)
            if rest.endswith('relative_coords_table'):
                tables.setdefault(stage, value)
            continue
        rules, prefix = {
            'stem': (layout.stem, ''),
            'block': (layout.block, f'stages.{stage}.blocks.{block}.'),
            'merging': (_MERGING, f'stages.{stage}.'),
        }[kind]
        for pattern, name in rules:
            match = re.fullmatch(pattern, rest)
            if match:
                weights[prefix + match.expand(name.replace('{last}', str(stages - 1)))] = value
                break
        else:
            unknown.append(key)
    if unknown:
        raise InputError(f'the checkpoint has the layout of {layout.name}, but {len(unknown)} of its keys are not known '
                         f'there: {some_of(unknown)}')
    weights = layout.fix(weights)

    windows = references = (None, ) * stages
    if layout.name == 'mmvitscale':
        found = [keys.get(f'stages.{i}.reference_window') for i in range(stages)]
        references = tuple(None if window is None else tuple(window.tolist()) for window in found)
    elif tables:
        found = [lineage_of_table(tables[i]) if i in tables else (None, None) for i in range(stages)]
        windows, references = (tuple(column) for column in zip(*found))
    return Converted('SwinV2', layout.name, weights, dropped, windows, references, _arch_of(weights))


def lineage_of_table(table: Tensor) -> Tuple[Window, Window]:
    """(1, 2 h - 1, 2 w - 1, 2) log-coordinates as the official code saves them -> (window, reference window).

    An axis of W tokens has 2 W - 1 offsets; its largest coordinate t = log2(1 + 8 (W - 1) / (P - 1)) / 3 gives
    P = 1 + 8 (W - 1) / (2^(3 t) - 1). An axis of one token tells nothing, and counts as learned with one.
    """
    window, reference = [], []
    for axis, length in enumerate(table.shape[1:3]):
        side = (length + 1) // 2
        largest = table[..., axis].double().max().item()
        exact = 1 + 8 * (side - 1) / (2**(3 * largest) - 1) if side > 1 else 1.0
        if abs(exact - round(exact)) > 0.01:
            raise InputError(f'a relative_coords_table of window {side} reaches {largest:.4f}, which no reference '
                             f'window gives (the nearest is {exact:.2f}); it is no log-spaced table of SwinV2')
        window.append(side)
        reference.append(round(exact))
    return tuple(window), tuple(reference)


def _arch_of(weights: State) -> dict:
    """The arch with exactly these weights. Raises InputError if some are missing or misshapen."""
    places = {tuple(map(int, match.groups()))
              for match in (re.match(r'stages\.(\d+)\.blocks\.(\d+)\.', key) for key in weights) if match}
    stages = 1 + max(stage for stage, _ in places)
    extra_norms = [int(key.split('.')[3]) + 1 for key in weights if key.endswith('extra_norm.weight')]
    try:
        dim, hidden = (weights[f'stages.0.blocks.0.{name}'].shape[0] for name in ('norm1.weight', 'mlp.fc1.bias'))
        arch = dict(
            embed_dims=dim,
            depths=tuple(1 + max(block for stage, block in places if stage == i) for i in range(stages)),
            num_heads=tuple(weights[f'stages.{i}.blocks.0.attn.logit_scale'].shape[0] for i in range(stages)),
            mlp_ratio=hidden // dim if hidden % dim == 0 else hidden / dim,
            extra_norm_every=min(extra_norms, default=0))
        bias, window = 'log_cpb', 8
        if 'stages.0.blocks.0.attn.position_bias.table' in weights:
            bias = 'table'
            window = [tuple((n + 1) // 2 for n in weights[f'stages.{i}.blocks.0.attn.position_bias.table'].shape[1:])
                      for i in range(stages)]
        with torch.device('meta'):
            model = SwinTransformerV2(arch, window, position_bias=bias, in_channels=weights[
                'patch_embed.proj.weight'].shape[1])
    except (KeyError, ValueError) as error:
        raise InputError(f'the checkpoint is incomplete: {error} cannot be made out; download or convert it '
                         'again') from error
    _check_against(model, weights, describe_arch(arch), optional=('out_norms.', ))
    return arch


def _check_against(model: torch.nn.Module, weights: State, description: str, optional: Tuple[str, ...]) -> None:
    """Raise InputError unless the weights are the model's, in name and shape, but for optional prefixes."""
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items() if 'reference_window' not in key}
    missing = [key for key in expected if key not in weights and not key.startswith(optional)]
    misshapen = [f'{key} is {tuple(weights[key].shape)} instead of {shape}' for key, shape in expected.items()
                 if key in weights and tuple(weights[key].shape) != shape]
    unexpected = [key for key in weights if key not in expected]
    for what, keys in (('lacks', missing), ('has misshapen', misshapen), ('has unexpected', unexpected)):
        if keys:
            raise InputError(f'the checkpoint looks like {description}, but it {what} {len(keys)} of its weights '
                             f'({some_of(keys)}); download or convert it again')
