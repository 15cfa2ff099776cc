"""Our names -> checkpoints of other libraries: the way back of ``convert.py``, dict to dict.

SwinV2: the official repository, timm, Hugging Face transformers, mmpretrain and torchvision; DeepViT: the official
repository. A library without a place for what a backbone has (another kind of block, windows that are no squares) is refused:
the weights would load there and compute something else.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import InputError
from .convert import Converted, State
from .lineage import GridLineage, Lineage, Window, WindowLineage, show_windows


@dataclass(frozen=True)
class ConvertedBack:
    """A backbone under the names of another library.

    library: whose. weights: its state dict. content: what a ``.pth`` file of the library holds. left_out: our weights that it
    has no place for. python: the line that builds the model which takes them. config: what stands beside the weights, for a
    library that wants it (Hugging Face's ``config.json``). notes: what to know before the numbers are compared.
    """

    library: str
    weights: State
    content: dict
    left_out: list[str]
    python: str
    config: dict | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Model:
    """What the builders of a SwinV2 say: its sizes, and one window and reference window for all stages or one for each."""

    dim: int
    depths: Sequence[int]
    heads: Sequence[int]
    mlp_ratio: float
    channels: int
    windows: Sequence[int]
    references: Sequence[int]
    classes: int
    extra_norm_every: int

    @property
    def last(self) -> int:
        return len(self.depths) - 1

    @property
    def image(self) -> int:
        """The smallest square image whose maps fill the windows: where a library shrinks windows to the maps, all run."""
        return max(4 * 2**i * window for i, window in enumerate(self.windows))


@dataclass(frozen=True)
class _Library:
    """names: of our weights there, by rules (pattern, replacement) tried one after the other. merging: a patch merging leads
    to its stage (0) or ends the one before (1). derived: for each block's ``attn.`` what its state dict holds of the windows.
    prefix: of the backbone in a classifier. head: the name of the classifier's linear layer. wrap: weights -> what a file
    holds. python: the line that builds it. config: what stands beside the weights."""

    names: list[tuple]
    python: Callable[[_Model], str]
    merging: int = 0
    derived: Callable[[Window, Window], State] = lambda window, reference: {}
    prefix: str = ''
    head: str = 'head'
    wrap: Callable[[State], dict] = lambda weights: weights
    change: Callable[[State], State] = lambda weights: weights
    config: Callable[[_Model], dict] | None = None
    extra_norm: bool = False
    any_reference: bool = True
    all_norms: bool = False


def libraries_of(family: str) -> list[str]:
    """'SwinV2' or 'DeepViT' -> the libraries that its weights can go to."""
    return list(_LIBRARIES) if family == 'SwinV2' else ['official']


def convert_back(converted: Converted, lineage: Lineage | None, library: str, heads: State | None = None) -> ConvertedBack:
    """A backbone under our names -> the same as another library names it.

    Args:
        converted: from ``convert``.
        lineage: what its weights were learned with; the reference window of every stage must be known.
        library: one of ``libraries_of(converted.family)``.
        heads: ``weight`` and ``bias`` of a classifier's linear layer, which goes with it.

    Raises:
        InputError: where the library has no model that would compute the same.
    """
    if library not in libraries_of(converted.family):
        raise InputError(
            f'a {converted.family} cannot go to {library}; it can go to {", ".join(libraries_of(converted.family))}'
        )
    if not isinstance(lineage, WindowLineage):
        return _deepvit_back(converted, lineage, heads or {})
    weights = {key: value for key, value in converted.weights.items() if key != 'mask_token'}
    style = _LIBRARIES[library]
    model = _model_of(weights, lineage, library, style, heads or {})

    out: State = {}
    left_out = [key for key in converted.weights if key == 'mask_token']
    for key, value in weights.items():
        norm = re.match(r'out_norms\.(\d+)\.', key)
        if norm and int(norm[1]) != model.last and not style.all_norms:
            left_out.append(key)
            continue
        out[_name_of(key, style, model.last)] = value.clone()
    for i, depth in enumerate(model.depths):
        for block in range(depth):
            start = _name_of(f'stages.{i}.blocks.{block}.attn.', style, model.last)
            for name, value in style.derived((model.windows[i],) * 2, (model.references[i],) * 2).items():
                out[start + name] = value.clone()
    out = style.change(out)
    if heads:
        out = {style.prefix + key: value for key, value in out.items()}
        out.update({f'{style.head}.{name}': value.clone() for name, value in heads.items()})
    notes = []
    if not style.all_norms and f'out_norms.{model.last}.weight' not in weights:
        notes.append(f'the checkpoint has no norm behind the last stage, which {library} has: there it starts as new')
    if library != 'mmpretrain' and not _shrinks_to(model.windows):
        notes.append(
            f'{library} has one window for all stages, {max(model.windows)} here, shrunk to small maps alone; these '
            f'weights last ran with {show_windows([(w, w) for w in model.windows])}'
        )
    config = style.config(model) if style.config else None
    return ConvertedBack(library, out, style.wrap(out), left_out, style.python(model), config, notes)


def _shrinks_to(windows: Sequence[int]) -> bool:
    """Whether one window, shrunk to the maps of some square image, gives these."""
    sides = [4 * 2**i * window for i, window in enumerate(windows) if window < max(windows)]
    whole = [4 * 2**i * window for i, window in enumerate(windows) if window == max(windows)]
    return not sides or len(set(sides)) == 1 and sides[0] >= max(whole)


def _model_of(weights: State, lineage: WindowLineage | None, library: str, style: _Library, heads: State) -> _Model:
    kinds = dict(pre_norm='block_norm pre', extra_norm='a norm on the main branch')
    for part, what in kinds.items():
        if any(f'.{part}' in key for key in weights) and not (part == 'extra_norm' and style.extra_norm):
            raise InputError(f'{library} has no SwinV2 with {what}; it stays in mmvitscale')
    if lineage is None or lineage.position_bias not in (None, 'log_cpb') or not any('logit_scale' in key for key in weights):
        raise InputError(
            f'{library} has log-spaced position biases and cosine attention alone; this backbone stays in mmvitscale'
        )
    if None in lineage.references:
        raise InputError(
            'the file does not tell with which windows its position biases were learned; give --pretrained-window-sizes'
        )
    windows = [window or reference for window, reference in zip(lineage.windows, lineage.references)]
    for name, sides in (('windows', windows), ('reference windows', lineage.references)):
        if any(height != width for height, width in sides):
            raise InputError(
                f'its {name} are {show_windows(sides)}, but those of {library} are squares; set other windows before you save'
            )
    if not style.any_reference and tuple(windows) != tuple(lineage.references):
        raise InputError(
            f'its position biases were learned with the windows {show_windows(lineage.references)} and it runs '
            f'with {show_windows(windows)}, but {library} knows no reference windows; choose another library'
        )
    stages = len(lineage.references)
    blocks = [
        {int(match[1]) for match in (re.match(rf'stages\.{i}\.blocks\.(\d+)\.', key) for key in weights) if match}
        for i in range(stages)
    ]
    dim, channels = weights['patch_embed.proj.weight'].shape[:2]
    return _Model(
        dim=dim,
        depths=tuple(map(len, blocks)),
        heads=tuple(len(weights[f'stages.{i}.blocks.0.attn.logit_scale']) for i in range(stages)),
        mlp_ratio=len(weights['stages.0.blocks.0.mlp.fc1.bias']) / dim,
        channels=channels,
        windows=[window[0] for window in windows],
        references=[reference[0] for reference in lineage.references],
        classes=len(heads['weight']) if heads else 0,
        extra_norm_every=1
        + min(
            (
                int(match[1])
                for match in (re.fullmatch(r'stages\.\d+\.blocks\.(\d+)\.extra_norm\.weight', key) for key in weights)
                if match
            ),
            default=-1,
        ),
    )


def _deepvit_back(converted: Converted, lineage: GridLineage | None, heads: State) -> ConvertedBack:
    """The official names are ours; statistics that are kept for another number of tokens become those of its own grid, with
    which the official form then computes what ``reatten_statistics='carried'`` does."""
    if any('.post_norm' in key for key in converted.weights):
        raise InputError('the official DeepViT has no block_norm post; it stays in mmvitscale')
    if lineage and lineage.grid[0] != lineage.grid[1]:
        raise InputError(
            f'its position embedding has the grid {show_windows([lineage.grid])}, but the official DeepViT takes '
            'square images; train with a square img_size'
        )
    left_out = [key for key in converted.weights if key == 'mask_token' or '.token_law.' in key]
    weights = {key: value.clone() for key, value in converted.weights.items() if key not in left_out}
    moved = [
        i
        for i, tokens in enumerate(lineage.tokens if lineage else ())
        if _move_statistics(weights, f'blocks.{i}.attn', tokens, 1 + lineage.grid[0] * lineage.grid[1])
    ]
    weights.update({f'head.{name}': value.clone() for name, value in heads.items()})
    side = f', img_size={16 * lineage.grid[0]}' if lineage else ''
    notes = [] if 'norm.weight' in weights else ['the checkpoint has no norm behind the last block, which starts as new there']
    if moved:
        notes.append(f'the statistics of {len(moved)} blocks are those of the grid {show_windows([lineage.grid])} now')
    return ConvertedBack(
        'official',
        weights,
        weights,
        left_out,
        f'timm.create_model(NAME_OF_THE_OFFICIAL_CODE, num_classes={len(heads.get("weight", ()))}{side})',
        notes=notes,
    )


def _move_statistics(weights: State, attn: str, learned: int, tokens: int) -> bool:
    """Give a Re-attention the mean and the bias with which the official form computes with so many tokens what the carried one
    does (models/layers/map_normalisation.py); the gain is the same. False where there is nothing to do."""
    if not learned or learned == tokens:
        return False
    total = weights[f'{attn}.reatten_matrix.weight'].flatten(1).sum(1)
    names = ('reatten_matrix.bias', 'var_norm.running_mean', 'var_norm.bias')
    shift, mean, bias = (weights[f'{attn}.{name}'] for name in names)
    left = total / learned + shift - mean
    weights[f'{attn}.var_norm.running_mean'] = total / tokens + shift - left * (learned / tokens)
    weights[f'{attn}.var_norm.bias'] = bias * (learned / tokens)
    return True


def _name_of(key: str, style: _Library, last: int) -> str:
    """Our name of a weight -> the library's. Stage by stage, for a patch merging may stand in the stage before."""
    merging = re.match(r'stages\.(\d+)\.downsample\.', key)
    if merging:
        key = f'stages.{int(merging[1]) - style.merging}.{key[len(merging[0]) - len("downsample.") :]}'
    key = key.replace(f'out_norms.{last}.', 'norm.') if not style.all_norms else key
    for pattern, name in style.names:
        key = re.sub(pattern, name, key)
    return key


# What a state dict holds of the windows: derived from them, and where a file tells its lineage.


def _coordinates(window: Window, reference: Window) -> Tensor:
    """(1, 2 h - 1, 2 w - 1, 2) float32 log-coordinates of all offsets (SwinV2, section 3.3, eq. 4)."""
    axes = []
    for side, learned in zip(window, reference):
        u = torch.arange(1 - side, side, dtype=torch.float32, device='cpu') * (8 / max(learned - 1, 1))
        axes.append(u.sign() * torch.log2(1 + u.abs()) / 3.0)
    return torch.stack(torch.meshgrid(*axes, indexing='ij'), dim=-1)[None]


def _index(window: Window) -> Tensor:
    """(N, N) int64: the place of each pair's offset, query minus key, among all of them row by row."""
    height, width = window
    y, x = (
        part.flatten()
        for part in torch.meshgrid(torch.arange(height, device='cpu'), torch.arange(width, device='cpu'), indexing='ij')
    )
    return (y[:, None] - y + height - 1) * (2 * width - 1) + x[:, None] - x + width - 1


def _tables(window: Window, reference: Window) -> State:
    return dict(relative_coords_table=_coordinates(window, reference), relative_position_index=_index(window))


def _tables_flat(window: Window, reference: Window) -> State:
    return dict(relative_coords_table=_coordinates(window, reference), relative_position_index=_index(window).flatten())


# What is more than renaming.


def _split_query_key_value(weights: State) -> State:
    """Hugging Face holds q, k and v apart."""
    out: State = {}
    for key, value in weights.items():
        if key.endswith('self.qkv.weight'):
            for name, part in zip(('query', 'key', 'value'), value.chunk(3)):
                out[key.replace('qkv', name)] = part.clone()
        else:
            out[key] = value
    return out


def _join_qkv_bias(weights: State) -> State:
    """torchvision holds one bias for q, k and v, that of k zero."""
    out = dict(weights)
    for key in weights:
        if key.endswith('attn.q_bias'):
            q, v = out.pop(key), out.pop(key.replace('q_bias', 'v_bias'))
            out[key.replace('q_bias', 'qkv.bias')] = torch.cat((q, torch.zeros_like(q), v))
    return out


def _channel_by_channel(weights: State) -> State:
    """mmpretrain reads the 2 x 2 tokens of a patch merging channel by channel and row by row; the published order is token by
    token and column by column."""
    out = dict(weights)
    for key, weight in weights.items():
        if key.endswith('downsample.reduction.weight'):
            by_token = weight.view(weight.shape[0], 4, -1)[:, [0, 2, 1, 3]]
            out[key] = by_token.transpose(1, 2).reshape(weight.shape)
    return out


def _arguments(**values) -> str:
    return ', '.join(f'{name}={value!r}' for name, value in values.items())


def _official_python(model: _Model) -> str:
    return (
        'SwinTransformerV2('
        + _arguments(
            img_size=model.image,
            in_chans=model.channels,
            num_classes=model.classes,
            embed_dim=model.dim,
            depths=list(model.depths),
            num_heads=list(model.heads),
            window_size=max(model.windows),
            mlp_ratio=model.mlp_ratio,
            pretrained_window_sizes=list(model.references),
        )
        + ')'
    )


def _timm_python(model: _Model) -> str:
    return (
        'timm.models.swin_transformer_v2.SwinTransformerV2('
        + _arguments(
            img_size=model.image,
            in_chans=model.channels,
            num_classes=model.classes,
            embed_dim=model.dim,
            depths=model.depths,
            num_heads=model.heads,
            window_size=max(model.windows),
            mlp_ratio=model.mlp_ratio,
            pretrained_window_sizes=tuple(model.references),
        )
        + ')'
    )


def _mmpretrain_python(model: _Model) -> str:
    arch = dict(
        embed_dims=model.dim,
        depths=list(model.depths),
        num_heads=list(model.heads),
        extra_norm_every_n_blocks=model.extra_norm_every,
    )
    return (
        'mmpretrain.models.SwinTransformerV2('
        + _arguments(
            arch=arch,
            img_size=model.image,
            in_channels=model.channels,
            window_size=list(model.windows),
            pretrained_window_sizes=list(model.references),
            out_indices=tuple(range(len(model.depths))),
        )
        + ')'
    )


def _torchvision_python(model: _Model) -> str:
    return (
        'torchvision.models.swin_transformer.SwinTransformer('
        + _arguments(
            patch_size=[4, 4],
            embed_dim=model.dim,
            depths=list(model.depths),
            num_heads=list(model.heads),
            window_size=[max(model.windows)] * 2,
            mlp_ratio=model.mlp_ratio,
            num_classes=model.classes or 1000,
        )
        + (', block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2)')
    )


def _huggingface_python(model: _Model) -> str:
    return f'transformers.{"Swinv2ForImageClassification" if model.classes else "Swinv2Model"}.from_pretrained(FOLDER)'


def _huggingface_config(model: _Model) -> dict:
    labels = (
        dict(
            id2label={str(i): f'LABEL_{i}' for i in range(model.classes)},
            label2id={f'LABEL_{i}': i for i in range(model.classes)},
        )
        if model.classes
        else {}
    )
    return dict(
        architectures=['Swinv2ForImageClassification' if model.classes else 'Swinv2Model'],
        model_type='swinv2',
        image_size=model.image,
        patch_size=4,
        num_channels=model.channels,
        embed_dim=model.dim,
        depths=list(model.depths),
        num_heads=list(model.heads),
        window_size=max(model.windows),
        mlp_ratio=model.mlp_ratio,
        pretrained_window_sizes=list(model.references),
        qkv_bias=True,
        hidden_act='gelu',
        layer_norm_eps=1e-5,
        use_absolute_embeddings=False,
        torch_dtype='float32',
        **labels,
    )


_CPB = (r'attn\.position_bias\.mlp\.', 'attn.cpb_mlp.')
_LAYERS = (r'^stages\.', 'layers.')

_LIBRARIES: dict[str, _Library] = {
    'official': _Library(
        names=[_CPB, _LAYERS], merging=1, derived=_tables, wrap=lambda weights: dict(model=weights), python=_official_python
    ),
    'timm': _Library(names=[_CPB, _LAYERS], head='head.fc', python=_timm_python),
    'huggingface': _Library(
        names=[
            (r'attn\.position_bias\.mlp\.', 'attention.self.continuous_position_bias_mlp.'),
            (r'attn\.qkv\.', 'attention.self.qkv.'),
            (r'attn\.q_bias', 'attention.self.query.bias'),
            (r'attn\.v_bias', 'attention.self.value.bias'),
            (r'attn\.logit_scale', 'attention.self.logit_scale'),
            (r'attn\.proj\.', 'attention.output.dense.'),
            (r'\.norm1\.', '.layernorm_before.'),
            (r'\.norm2\.', '.layernorm_after.'),
            (r'mlp\.fc1\.', 'intermediate.dense.'),
            (r'mlp\.fc2\.', 'output.dense.'),
            (r'^patch_embed\.proj\.', 'embeddings.patch_embeddings.projection.'),
            (r'^patch_embed\.norm\.', 'embeddings.norm.'),
            (r'^norm\.', 'layernorm.'),
            (r'^stages\.', 'encoder.layers.'),
        ],
        merging=1,
        prefix='swinv2.',
        head='classifier',
        change=_split_query_key_value,
        python=_huggingface_python,
        config=_huggingface_config,
    ),
    'mmpretrain': _Library(
        names=[
            (r'attn\.position_bias\.mlp\.', 'attn.cpb_mlp.'),
            (r'\.attn\.', '.attn.w_msa.'),
            (r'mlp\.fc1\.', 'ffn.layers.0.0.'),
            (r'mlp\.fc2\.', 'ffn.layers.1.'),
            (r'extra_norm\.', 'norm3.'),
            (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
            (r'^out_norms\.(\d+)\.', r'norm\1.'),
        ],
        derived=_tables,
        prefix='backbone.',
        head='head.fc',
        change=_channel_by_channel,
        extra_norm=True,
        all_norms=True,
        wrap=lambda weights: dict(state_dict=weights, meta={}),
        python=_mmpretrain_python,
    ),
    'torchvision': _Library(
        names=[
            _CPB,
            (r'mlp\.fc1\.', 'mlp.0.'),
            (r'mlp\.fc2\.', 'mlp.3.'),
            (r'^patch_embed\.proj\.', 'features.0.0.'),
            (r'^patch_embed\.norm\.', 'features.0.2.'),
            (r'^stages\.(\d+)\.blocks\.', lambda match: f'features.{2 * int(match[1]) + 1}.'),
            (r'^stages\.(\d+)\.downsample\.', lambda match: f'features.{2 * int(match[1])}.'),
        ],
        derived=_tables_flat,
        change=_join_qkv_bias,
        any_reference=False,
        python=_torchvision_python,
    ),
}
